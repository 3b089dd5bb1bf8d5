// Residual addition: out = (x + y) & keep, keep = 2^bits - 1; with a bias for each column, x + y + bias.
//
// Shapes: x, y, out (n), or rows of C columns with bias (C). Layout: flat words. Launch: 256 threads, 1024 elements a block. Largest n: 2^41; add_bias 2^32 - 2^10.
// Fast because: 24 bytes an element, one addition; the copy bandwidth counts. out may be x or y.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256) add(const u64* x, const u64* y, u64* out, i64 n, u64 keep) {
  EACH(i, n) out[i] = (x[i] + y[i]) & keep;
}

extern "C" __global__ void __launch_bounds__(256)
    add_bias(const u64* x, const u64* y, const u64* bias, u64* out, u32 n, u32 columns, u64 keep) {
  EACH32(i, n) out[i] = (x[i] + y[i] + bias[i % columns]) & keep;
}
