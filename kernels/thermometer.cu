// The dealer's leaves: table[d, v] = [v < r_d] for v = 0 .. 2^b - 2, bit-sliced from the planes of the digits r_d.
//
// Shapes: planes (D, b, lanes), low bit first; table (D, 2^b - 1, lanes). Layout: 64 elements a word. Launch: blocks =
// ceil(lanes / 256) x D, 256 threads. Largest: b <= 6, D lanes < 2^39.
// Fast because: a digit's bits are loaded once and stay in registers; b logical instructions serve 64 elements of an entry.
#include "ring.cuh"

// [v < r] from the lowest bit up: a zero in v where r has a one decides for r, the reverse against it.
extern "C" __global__ void __launch_bounds__(256) thermometer(const u64* planes, u64* table, i64 lanes, int width, int digits) {
  const i64 j = (i64)(blockIdx.x / digits) * THREADS + threadIdx.x;
  const int d = blockIdx.x % digits, size = (1 << width) - 1;
  if (j >= lanes) return;
  u64 r[6];
#pragma unroll
  for (int b = 0; b < 6; ++b) r[b] = b < width ? planes[((i64)d * width + b) * lanes + j] : 0;
  for (int v = 0; v < size; ++v) {
    u64 less = 0;
#pragma unroll
    for (int b = 0; b < 6; ++b)
      if (b < width) less = v >> b & 1 ? r[b] & less : r[b] | less;
    table[((i64)d * size + v) * lanes + j] = less;
  }
}
