// Selecting by an opened choice: the two candidates of max(v, 0), and the last step of a clamp.
//
//   candidates    row 0: zero = y t - t_r, row 1: one = v - zero, modulo 2^bits
//   clamp_finish  inside + top d1 modulo 2^bits with d1 = (1 - 2 c) t + (1 - p) c
//
// Shapes: v, y, t, t_r, inside (n) words, out (2, n) or (n); c a lane (ceil(n / 64)). Launch: 256 threads, 1024 elements a
// block. Largest n: 2^40. Fast because: one pass; both candidates are there before the choice is opened, so that nothing
// waits for it but a selection.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256)
    candidates(const u64* v, const u64* y, const u64* t, const u64* t_r, u64* out, i64 n, u64 mask) {
  EACH(i, n) {
    const u64 zero = (y[i] * t[i] - t_r[i]) & mask;
    out[i] = zero;
    out[n + i] = (v[i] - zero) & mask;
  }
}

extern "C" __global__ void __launch_bounds__(256)
    clamp_finish(const u64* inside, const u64* c, const u64* t, u64* out, i64 n, u64 public_part, u64 top, u64 mask) {
  EACH(i, n) {
    const u64 bit = c[i / 64] >> (i % 64) & 1, share = t[i];
    out[i] = (inside[i] + top * (share - bit * (share + share) + public_part * bit)) & mask;
  }
}
