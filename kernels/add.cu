// Residual addition: out = (x + y) & mask, mask = 2^bits - 1.
//
// Shapes: x, y, out (n). Layout: flat words. Launch: 256 threads, 1024 elements a block. Largest n: 2^41.
// Fast because: 24 bytes an element, one addition; the copy bandwidth counts. out may be x or y.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256) add(const u64* x, const u64* y, u64* out, i64 n, u64 mask) {
  EACH(i, n) out[i] = (x[i] + y[i]) & mask;
}
