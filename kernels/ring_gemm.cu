// Ring product on the integer pipe: out = x w (+ addend + bias) modulo 2^bits.
//
// Shapes: x (M,K), w (K,N), out and addend (M,N), bias (N). Layout: row-major words. Launch: blocks = tiles of 64 rows x
// tiles of 64 columns, 256 threads. Largest: M, K, N < 2^31; sums wrap, so K has no bound.
// Fast because: 16 loads from shared memory feed 64 multiply-adds a thread. The baseline: see limb_gemm.cu.
#include "imad.cuh"

extern "C" __global__ void __launch_bounds__(256, 2)
    ring_gemm(const u64* x, const u64* w, u64* out, const u64* addend, const u64* bias, int M, int K, int N, u64 mask) {
  SHARED(imad::Slices, s);
  const int column_tiles = (N + imad::TILE - 1) / imad::TILE;
  const i64 first_row = (i64)(blockIdx.x / column_tiles) * imad::TILE;
  const i64 first_column = (i64)(blockIdx.x % column_tiles) * imad::TILE;
  imad::Accumulator sum;
  for (int start = 0; start < K; start += imad::DEPTH) {
    for (int i = 0; i < 4; ++i) {
      const int k = start + threadIdx.x % 16, r = threadIdx.x / 16 + 16 * i;
      s.a[threadIdx.x % 16 * imad::STRIDE + r] = first_row + r < M && k < K ? x[(first_row + r) * K + k] : 0;
    }
    for (int i = 0; i < 4; ++i) {
      const int k = threadIdx.x / 64 + 4 * i;
      const i64 column = first_column + threadIdx.x % 64;
      s.b[k * imad::STRIDE + threadIdx.x % 64] = start + k < K && column < N ? w[(i64)(start + k) * N + column] : 0;
    }
    __syncthreads();
    imad::multiply(sum, s);
    __syncthreads();
  }
  imad::store(sum, out, addend, bias, first_row, M, first_column, N, N, mask);
}
