// Choice by a public lane: out[i] = if_one[i] where bit i of the lane is one, else if_zero[i].
//
// Shapes: if_one, if_zero, out (n) words; lane (ceil(n / 64)). Launch: 256 threads, 1024 elements a block. Largest n: 2^41.
// Fast because: one pass, and only the chosen word is read: 16 bytes and a bit an element at best.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256)
    select_words(const u64* lane, const u64* if_one, const u64* if_zero, u64* out, i64 n) {
  EACH(i, n) out[i] = lane[i / 64] >> (i % 64) & 1 ? if_one[i] : if_zero[i];
}
