// Dot products of matching rows: out[i] = sum_j x[i, j] y[i, j] modulo 2^bits, mask = 2^bits - 1.
//
// Shapes: x, y (N, d), out (N). Layout: row-major words. Launch: a warp a row, 8 rows a block of 256 threads. Largest:
// N < 2^34, d < 2^31.
// Fast because: a warp reads 256 neighbouring bytes at a time; 16 bytes an entry, the copy bandwidth counts.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256) row_dot(const u64* x, const u64* y, u64* out, i64 rows, int d, u64 mask) {
  const i64 row = (i64)blockIdx.x * 8 + threadIdx.x / 32;
  u64 sum = 0;
  if (row < rows)
    for (int j = threadIdx.x % 32; j < d; j += 32) sum += x[row * d + j] * y[row * d + j];
#pragma unroll
  for (int step = 16; step; step >>= 1) {
    const u32 low = __shfl_xor_sync(0xffffffffu, (u32)sum, step);
    const u32 high = __shfl_xor_sync(0xffffffffu, (u32)(sum >> 32), step);
    sum += low | (u64)high << 32;
  }
  if (row < rows && threadIdx.x % 32 == 0) out[row] = sum & mask;
}
