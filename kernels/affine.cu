// Public affine map: out = (x factor + constant) & mask, mask = 2^bits - 1: reduction, scaling and shifting by a constant.
//
// Shapes: x, out (n). Layout: flat words. Launch: 256 threads, 1024 elements a block. Largest n: 2^41.
// Fast because: 16 bytes an element and one multiply-add; nothing but the copy bandwidth counts. out may be x.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256) affine(const u64* x, u64* out, i64 n, u64 factor, u64 constant, u64 mask) {
  EACH(i, n) out[i] = (x[i] * factor + constant) & mask;
}
