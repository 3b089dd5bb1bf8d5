// One level of a knock-out for the maximum, max(a, b) = b + max(a - b, 0): entries 2 p and 2 p + 1 meet.
//
//   level_difference  out[p] = entry[2 p] - entry[2 p + 1], for the comparison
//   level_best        out[p] = entry[2 p + 1] + positive[p]; an odd last entry moves up unchanged
//
// Shapes: entry (E, m), positive and level_difference's out (E / 2, m), level_best's out (ceil(E / 2), m). Layout: row-major
// words. Launch: 256 threads, 1024 elements of out a block. Largest: n < 2^32 - 2^10.
// Fast because: one pass, 24 bytes an element of out; the copy bandwidth counts.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256) level_difference(const u64* entry, u64* out, u32 n, u32 m, u64 keep) {
  EACH32(i, n) {
    const i64 left = (i64)(i / m) * 2 * m + i % m;
    out[i] = (entry[left] - entry[left + m]) & keep;
  }
}

extern "C" __global__ void __launch_bounds__(256)
    level_best(const u64* entry, const u64* positive, u64* out, u32 n, u32 m, i64 pairs, u64 keep) {
  EACH32(i, n) {
    const i64 row = i / m;
    out[i] = row < pairs ? (entry[(2 * row + 1) * m + i % m] + positive[i]) & keep : entry[2 * pairs * m + i % m] & keep;
  }
}
