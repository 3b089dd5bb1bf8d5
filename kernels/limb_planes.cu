// Words as limb planes, the operands of the tensor-core products: planes[l] holds byte l of every word, rows padded with
// zeros to KP, a multiple of 32.
//
// Shapes:
//   split_rows     x (rows, K)          -> (limbs, rows, KP)         a left operand; NHWC pixels are rows
//   split_columns  w (taps, K, N)       -> (limbs, N, taps KP)       a right operand, turned so that K is innermost
//   split_windows  x (B, H, W, C)       -> (limbs, B HO WO, KP)      windows gathered, KP >= KH KW C: for few channels
//   join_rows      planes               -> x (rows, K)               the inverse of split_rows
//
// Launch: 256 threads; rows, windows, join 1024 bytes of a plane a block; columns a 32x32 tile a block. Largest: 2^32 quads of
// bytes a plane; join_rows: 2^32 - 2^10 words.
// Fast because: one pass, 8 bytes read and `limbs` written a word; four bytes a store, whole sectors a warp.
#include "limb_planes.cuh"

extern "C" __global__ void __launch_bounds__(256)
    split_rows(const u64* x, u8* planes, i64 rows, int K, int KP, int limbs) {
  const u32 quad = blockIdx.x * THREADS + threadIdx.x, per_row = KP / 4;
  const i64 row = quad / per_row, at = 4 * (i64)quad;
  const int k = quad % per_row * 4;
  if (row >= rows) return;
  u64 v[4];
#pragma unroll
  for (int e = 0; e < 4; ++e) v[e] = k + e < K ? x[row * K + k + e] : 0;
  limb::store4(planes, rows * KP, at, v, limbs);
}

struct Square {
  u64 word[32 * 33];  // [k][column]
};

extern "C" __global__ void __launch_bounds__(256)
    split_columns(const u64* w, u8* planes, int taps, int K, int KP, i64 N, int limbs) {
  SHARED(Square, square);
  const int column_tiles = (int)((N + 31) / 32), depth_tiles = KP / 32;
  const i64 first_column = (i64)(blockIdx.x % column_tiles) * 32;
  const int first_k = blockIdx.x / column_tiles % depth_tiles * 32, tap = blockIdx.x / column_tiles / depth_tiles;
  for (int i = threadIdx.x; i < 32 * 32; i += THREADS) {
    const int k = first_k + i / 32;
    const i64 column = first_column + i % 32;
    square.word[i / 32 * 33 + i % 32] = k < K && column < N ? w[((i64)tap * K + k) * N + column] : 0;
  }
  __syncthreads();
  const int local = threadIdx.x / 8, k = threadIdx.x % 8 * 4;
  if (first_column + local >= N) return;
  u64 v[4];
#pragma unroll
  for (int e = 0; e < 4; ++e) v[e] = square.word[(k + e) * 33 + local];
  const i64 row = (i64)taps * KP;
  limb::store4(planes, N * row, (first_column + local) * row + (i64)tap * KP + first_k + k, v, limbs);
}

extern "C" __global__ void __launch_bounds__(256)
    split_windows(const u64* x, u8* planes, i64 rows, int H, int W, int C, int HO, int WO, int KH, int KW, int stride_y,
                  int stride_x, int top, int left, int KP, int limbs) {
  const u32 quad = blockIdx.x * THREADS + threadIdx.x, per_row = KP / 4, row = quad / per_row, line_of = row / (u32)WO;
  const i64 at = 4 * (i64)quad, image = line_of / (u32)HO;
  if (row >= rows) return;
  const int y = line_of % (u32)HO * stride_y - top, z = row % (u32)WO * stride_x - left, depth = KH * KW * C;
  u64 v[4];
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int k = quad % per_row * 4 + e, line = y + k / C / KW, column = z + k / C % KW;
    const bool inside = k < depth && line >= 0 && line < H && column >= 0 && column < W;
    v[e] = inside ? x[((image * H + line) * W + column) * C + k % C] : 0;
  }
  limb::store4(planes, rows * KP, at, v, limbs);
}

extern "C" __global__ void __launch_bounds__(256)
    join_rows(const u8* planes, u64* x, i64 rows, int K, int KP, int limbs) {
  EACH32(i, (u32)(rows * K)) {
    const i64 at = (i64)(i / (u32)K) * KP + i % (u32)K;
    u64 word = 0;
    for (int l = 0; l < limbs; ++l) word |= (u64)planes[l * rows * KP + at] << (8 * l);
    x[i] = word;
  }
}
