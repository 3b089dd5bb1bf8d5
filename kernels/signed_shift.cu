// Signed words: out = (x << up) >> down, the second shift arithmetic. up = down = 64 - bits extends the sign of a value
// modulo 2^bits; up = 0 divides by 2^down and rounds down.
//
// Shapes: x, out (n). Layout: flat words. Launch: 256 threads, 1024 elements a block. Largest n: 2^41.
// Fast because: 16 bytes an element, two shifts; the copy bandwidth counts.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256) signed_shift(const u64* x, u64* out, i64 n, int up, int down) {
  EACH(i, n) out[i] = (u64)((i64)(x[i] << up) >> down);
}
