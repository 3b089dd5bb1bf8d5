// Index of the largest signed entry of each row, the lowest on ties.
//
// Shapes: x (rows, N), out (rows). Layout: row-major words. Launch: a warp a row, 8 rows a block of 256 threads. Largest:
// N < 2^31. Fast because: a warp reads 256 neighbouring bytes at a time, and five shuffles decide.
#include "ring.cuh"

DEVICE u64 exchange(u64 x, int lanes) {
  const u32 low = __shfl_xor_sync(0xffffffffu, (u32)x, lanes), high = __shfl_xor_sync(0xffffffffu, (u32)(x >> 32), lanes);
  return low | (u64)high << 32;
}

extern "C" __global__ void __launch_bounds__(256) argmax_signed(const u64* x, u64* out, i64 rows, int N) {
  const i64 row = (i64)blockIdx.x * 8 + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  i64 best = (i64)(1ull << 63);
  int index = 0x7fffffff;  // of nothing: loses every tie
  if (row < rows)
    for (int j = lane; j < N; j += 32) {
      const i64 value = (i64)x[row * N + j];
      if (value > best || (value == best && j < index)) best = value, index = j;
    }
#pragma unroll
  for (int step = 16; step; step >>= 1) {
    const i64 value = (i64)exchange((u64)best, step);
    const int j = (int)__shfl_xor_sync(0xffffffffu, (u32)index, step);
    if (value > best || (value == best && j < index)) best = value, index = j;
  }
  if (row < rows && lane == 0) out[row] = (u64)index;
}
