// The second half of an opening: e = (own + theirs) mod 2^bits, written as limb planes, and as words where `out` is given.
//
// Shapes: own (rows, K) words; theirs packed as the wire carries rows K values of `bits` bits; planes (limbs, rows, KP),
// padded with zeros; out (rows, K) or null. Launch: 256 threads, 1024 bytes of a plane a block. Largest: 2^32 quads of
// bytes a plane.
// Fast because: the message is unpacked, added, reduced and cut in registers: 8 + bits / 8 bytes read, `limbs` written.
#include "limb_planes.cuh"
#include "wire.cuh"

extern "C" __global__ void __launch_bounds__(256)
    combine(const u64* own, const u8* theirs, u8* planes, u64* out, i64 rows, int K, int KP, int bits, int limbs, u64 mask) {
  const u32 quad = blockIdx.x * THREADS + threadIdx.x, per_row = KP / 4;
  const i64 row = quad / per_row, at = 4 * (i64)quad, n = rows * K;
  const int k = quad % per_row * 4;
  if (row >= rows) return;
  const i64 first = row * K + k;
  u64 v[4] = {};
  if (K % 4 == 0 && k < K) {
    wire::load4(v, theirs, n, bits, first);
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (k + e < K) v[e] = wire::load1(theirs, n, bits, first + e);
  }
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if (k + e < K) {
      v[e] = (own[first + e] + v[e]) & mask;
      if (out) out[first + e] = v[e];
    }
  limb::store4(planes, rows * KP, at, v, limbs);
}
