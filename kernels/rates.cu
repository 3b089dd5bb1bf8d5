// The ceilings: how fast a device multiplies when nothing else is in the way. Timed, never part of a product.
//
//   rate_mma   mma.sync m16n8k32 on bytes, eight independent accumulators a warp: 8 x 4096 multiply-adds a round and warp
//   rate_imad  64-bit multiply-adds, eight independent chains a thread: 8 a round and thread
//
// Shapes: out (blocks x 256). Layout: a word a thread, so that nothing is optimised away. Launch: any number of blocks of 256
// threads. Largest: 2^31 blocks. Fast because: it touches no memory.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256) rate_mma(u32* out, int rounds) {
  u32 d[8][4] = {}, a[4] = {threadIdx.x, threadIdx.x * 3, threadIdx.x * 5, threadIdx.x * 7};
  for (int i = 0; i < rounds; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) mma_u8(d[j], a, threadIdx.x + j, threadIdx.x * j);
  u32 sum = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) sum += d[j][0] + d[j][1] + d[j][2] + d[j][3];
  out[(i64)blockIdx.x * 256 + threadIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256) rate_imad(u64* out, int rounds) {
  u64 x[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) x[j] = threadIdx.x + j;
  for (int i = 0; i < rounds; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = x[j] * 0x9E3779B97F4A7C15ull + x[(j + 1) % 8];
  u64 sum = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) sum += x[j];
  out[(i64)blockIdx.x * 256 + threadIdx.x] = sum;
}
