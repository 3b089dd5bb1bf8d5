// Truncation: out = ((x + round) & mask) >> shift, party 0 with round = 2^shift - 1, party 1 with 0; mask = 2^k - 1.
// A share modulo 2^k becomes one modulo 2^(k - shift) of floor(x / 2^shift) or that plus one.
//
// Shapes: x, out (n). Layout: flat words. Launch: 256 threads, 1024 elements a block. Largest n: 2^31 blocks, 2^41.
// Fast because: 16 bytes an element and three instructions; nothing but the copy bandwidth counts. out may be x.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256) truncate(const u64* x, u64* out, i64 n, u64 round, u64 mask, int shift) {
  EACH(i, n) out[i] = ((x[i] + round) & mask) >> shift;
}
