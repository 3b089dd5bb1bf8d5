// Words modulo 2^bits as the wire carries them, and back: bits / 8 byte planes, then bits % 8 bit lanes. See wire.cuh.
// add_packed is `unpack` that adds: out = (x + unpacked) & mask.
//
// Shapes: x, out (n) words; packed (n (bits / 8) + 8 ceil(n / 64) (bits % 8)) bytes. Launch: 256 threads, 1024 elements a
// block; pack covers 64 ceil(n / 64) elements, so that padding bits are written. Largest n: 2^41.
// Fast because: one pass; where n is a multiple of four every access is four bytes or more a thread, whole sectors a warp.
#include "wire.cuh"

extern "C" __global__ void __launch_bounds__(256) pack(const u64* x, u8* packed, i64 n, int bits) {
  const i64 first = 4 * ((i64)blockIdx.x * THREADS + threadIdx.x);
  u64 v[4];
#pragma unroll
  for (int e = 0; e < 4; ++e) v[e] = first + e < n ? x[first + e] : 0;
  wire::store4(packed, v, n, bits, first);
}

extern "C" __global__ void __launch_bounds__(256) unpack(const u8* packed, u64* out, i64 n, int bits) {
  const i64 first = 4 * ((i64)blockIdx.x * THREADS + threadIdx.x);
  u64 v[4];
  wire::load4(v, packed, n, bits, first);
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if (first + e < n) out[first + e] = v[e];
}

extern "C" __global__ void __launch_bounds__(256)
    add_packed(const u64* x, const u8* packed, u64* out, i64 n, int bits, u64 mask) {
  const i64 first = 4 * ((i64)blockIdx.x * THREADS + threadIdx.x);
  u64 v[4];
  wire::load4(v, packed, n, bits, first);
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if (first + e < n) out[first + e] = (x[first + e] + v[e]) & mask;
}
