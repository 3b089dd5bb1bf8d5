// Packed values as the wire carries them: bits / 8 planes of n bytes, then bits % 8 lanes of 8 ceil(n / 64) bytes.
// A thread takes four neighbouring elements: four bytes of a byte plane, half a byte of a lane.
#pragma once
#include "ring.cuh"

namespace wire {

DEVICE i64 lane_bytes(i64 n) { return (n + 63) / 64 * 8; }

// v[e] = element first + e (zero past the last) of `packed`; first a multiple of four.
DEVICE void load4(u64 (&v)[4], const u8* packed, i64 n, int bits, i64 first) {
  const int whole = bits / 8;
  const bool aligned = n % 4 == 0;
#pragma unroll
  for (int e = 0; e < 4; ++e) v[e] = 0;
  for (int j = 0; j < whole; ++j) {
    const u8* plane = packed + j * n;
    if (aligned) {
      if (first < n) {
        const u32 four = *(const u32*)(plane + first);
#pragma unroll
        for (int e = 0; e < 4; ++e) v[e] |= (u64)(four >> (8 * e) & 255) << (8 * j);
      }
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (first + e < n) v[e] |= (u64)plane[first + e] << (8 * j);
    }
  }
  for (int b = 0; b < bits % 8; ++b)
    if (first < n) {
      const u32 half = packed[whole * n + b * lane_bytes(n) + first / 8] >> (first & 4);
#pragma unroll
      for (int e = 0; e < 4; ++e) v[e] |= (u64)(half >> e & 1) << (8 * whole + b);
    }
}

// One element of `packed`.
DEVICE u64 load1(const u8* packed, i64 n, int bits, i64 i) {
  const int whole = bits / 8;
  u64 value = 0;
  for (int j = 0; j < whole; ++j) value |= (u64)packed[j * n + i] << (8 * j);
  for (int b = 0; b < bits % 8; ++b)
    value |= (u64)(packed[whole * n + b * lane_bytes(n) + i / 8] >> (i & 7) & 1) << (8 * whole + b);
  return value;
}

// The inverse of load4; whole warps call it, with zeros past the last element, up to element 64 ceil(n / 64).
DEVICE void store4(u8* packed, const u64 (&v)[4], i64 n, int bits, i64 first) {
  const int whole = bits / 8;
  const bool aligned = n % 4 == 0;
  for (int j = 0; j < whole; ++j) {
    u8* plane = packed + j * n;
    if (aligned) {
      if (first < n) {
        u32 four = 0;
#pragma unroll
        for (int e = 0; e < 4; ++e) four |= ((u32)(v[e] >> (8 * j)) & 255) << (8 * e);
        *(u32*)(plane + first) = four;
      }
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (first + e < n) plane[first + e] = (u8)(v[e] >> (8 * j));
    }
  }
  for (int b = 0; b < bits % 8; ++b) {
    u32 half = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) half |= ((u32)(v[e] >> (8 * whole + b)) & 1) << e;
    const u32 other = __shfl_xor_sync(0xffffffffu, half, 1);
    if (!(threadIdx.x & 1) && first / 8 < lane_bytes(n)) packed[whole * n + b * lane_bytes(n) + first / 8] = half | other << 4;
  }
}

}  // namespace wire
