// Entries by a public or secret permutation, row by row: out[q, m] = x[q, index[q, m]]; and along one axis by one index.
//
// Shapes:
//   gather     x (Q, N), index (Q, M), out (Q, M)
//   take_axis  x (outer, N, inner), index (M), out (outer, M, inner)
//
// Layout: row-major words, 64-bit indices that the launcher has checked. Launch: 256 threads, 1024 elements of out a block.
// Largest: n < 2^32 - 2^10. Fast because: one pass; writes are whole sectors, reads as scattered as the index.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256) gather(const u64* x, const i64* index, u64* out, u32 n, i64 row, u32 picked) {
  EACH32(i, n) out[i] = x[i / picked * row + index[i]];
}

extern "C" __global__ void __launch_bounds__(256)
    take_axis(const u64* x, const i64* index, u64* out, u32 n, i64 length, u32 picked, u32 inner) {
  EACH32(i, n) out[i] = x[(i / inner / picked * length + index[i / inner % picked]) * inner + i % inner];
}
