// Element-wise product modulo 2^bits: out = (x w) & mask, mask = 2^bits - 1.
//
// Shapes: all (n). Layout: flat words. Launch: 256 threads, 1024 elements a block. Largest n: 2^41.
// Fast because: 24 bytes an element and one multiplication; the copy bandwidth counts.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256) product(const u64* x, const u64* w, u64* out, i64 n, u64 mask) {
  EACH(i, n) out[i] = (x[i] * w[i]) & mask;
}
