// int64 ring convolution on the integer pipe: out[b,y,x,o] = sum x[b, sy y + u - top, sx x + v - left, c] w[u,v,c,o]
// (+ addend + bias[o]) modulo 2^bits, zero padding, any stride, any number of groups.
//
// Shapes: x (B,H,W,C), w (KH,KW,C/G,N), out and addend (B,HO,WO,N), bias (N). Layout: NHWC words; w as (KH KW C/G, N).
// Launch: blocks = tiles of 64 pixels x tiles of 64 channels of a group x groups, 256 threads. Largest: B HO WO < 2^31,
// K and N of a group < 2^31; sums wrap, so K has no bound.
// Fast because: implicit GEMM, no im2col buffer; 16 loads from shared memory feed 64 multiply-adds a thread.
#include "imad.cuh"

extern "C" __global__ void __launch_bounds__(256, 2)
    ring_conv(const u64* x, const u64* w, u64* out, const u64* addend, const u64* bias, int B, int H, int W, int C, int HO,
              int WO, int N, int KW, int taps, int stride_y, int stride_x, int top, int left, int groups, u64 mask) {
  SHARED(imad::Slices, s);
  const int per_group = C / groups, n_group = N / groups, depth = taps * per_group;
  const int column_tiles = (n_group + imad::TILE - 1) / imad::TILE;
  const u32 pixels = (u32)B * HO * WO;
  const int group = blockIdx.x % groups;
  const int first_column = blockIdx.x / groups % column_tiles * imad::TILE;
  const u32 first_row = blockIdx.x / groups / column_tiles * imad::TILE;
  imad::Accumulator sum;
  for (int start = 0; start < depth; start += imad::DEPTH) {
    // x: neighbouring threads take neighbouring channels of one tap
    const int k = start + threadIdx.x % 16, tap = k / per_group, c = group * per_group + k % per_group;
    for (int i = 0; i < 4; ++i) {
      const int r = threadIdx.x / 16 + 16 * i;
      const u32 pixel = first_row + r, line = pixel / (u32)WO;
      u64 value = 0;
      if (pixel < pixels && k < depth) {
        const int y = (int)(line % (u32)HO) * stride_y + tap / KW - top, z = (int)(pixel % (u32)WO) * stride_x + tap % KW - left;
        if (y >= 0 && y < H && z >= 0 && z < W) value = x[((i64)(line / (u32)HO * H + y) * W + z) * C + c];
      }
      s.a[threadIdx.x % 16 * imad::STRIDE + r] = value;
    }
    for (int i = 0; i < 4; ++i) {
      const int row = start + threadIdx.x / 64 + 4 * i, column = first_column + threadIdx.x % 64;
      const bool inside = row < depth && column < n_group;
      s.b[(threadIdx.x / 64 + 4 * i) * imad::STRIDE + threadIdx.x % 64] =
          inside ? w[(i64)row * N + group * n_group + column] : 0;
    }
    __syncthreads();
    imad::multiply(sum, s);
    __syncthreads();
  }
  const i64 offset = group * n_group;
  imad::store(sum, out + offset, addend ? addend + offset : nullptr, bias ? bias + offset : nullptr, first_row, pixels,
              first_column, n_group, N, mask);
}
