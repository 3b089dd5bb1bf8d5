// A value under a fresh mask, packed in one pass: a server's message of an opening, or the dealer's correction.
//
//   mask_words  packed = wire form of (x + sign PRG(key)) mod 2^bits, sign = 1 or 2^64 - 1; as words too where
//               `out` is given; the mask itself where `drawn` is
//   mask_add    out = (x + sign PRG(key)) mod 2^bits, as words
//   mask_lanes  out = x ^ PRG(key), the last lane word of each row & tail
//
// Shapes: x (n) words, packed as pack.cu writes it; lanes (planes, row). Launch: 256 threads, 16384 stream bytes a block,
// `word_bytes` (1, 2, 4, 8: the smallest that holds `bits`) stream bytes an element. Largest: 2^32 stream blocks, and fewer than 2^32 lane words.
// Fast because: the mask is made in registers and never in memory: 8 bytes read and bits / 8 written an element.
#include "chacha.cuh"
#include "wire.cuh"

extern "C" __global__ void __launch_bounds__(256)
    mask_words(const u64* x, u8* packed, u64* out, u64* drawn, i64 n, int bits, int word_bytes, u64 sign, u64 bit_mask, u32 k0,
               u32 k1, u32 k2, u32 k3, u32 k4, u32 k5, u32 k6, u32 k7) {
  SHARED(chacha::Stream, stream);
  const u32 key[8] = {k0, k1, k2, k3, k4, k5, k6, k7};
  stream.fill(key, (i64)blockIdx.x * THREADS);
  const int count = chacha::STREAM_BYTES / word_bytes;
  for (int q = 4 * threadIdx.x; q < count; q += 4 * THREADS) {  // whole warps, as store4 wants
    const i64 first = (i64)blockIdx.x * count + q;
    u64 v[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const u64 mask = stream.at((q + e) * word_bytes, word_bytes);
      v[e] = first + e < n ? x[first + e] + sign * mask : 0;
      if (out && first + e < n) out[first + e] = v[e] & bit_mask;
      if (drawn && first + e < n) drawn[first + e] = mask & bit_mask;
    }
    wire::store4(packed, v, n, bits, first);
  }
}

extern "C" __global__ void __launch_bounds__(256)
    mask_add(const u64* x, u64* out, i64 n, int word_bytes, u64 sign, u64 bit_mask, u32 k0, u32 k1, u32 k2, u32 k3, u32 k4, u32 k5,
             u32 k6, u32 k7) {
  SHARED(chacha::Stream, stream);
  const u32 key[8] = {k0, k1, k2, k3, k4, k5, k6, k7};
  stream.fill(key, (i64)blockIdx.x * THREADS);
  const int count = chacha::STREAM_BYTES / word_bytes;
  const i64 first = (i64)blockIdx.x * count;
  for (int q = threadIdx.x; q < count && first + q < n; q += THREADS)
    out[first + q] = (x[first + q] + sign * stream.at(q * word_bytes, word_bytes)) & bit_mask;
}

extern "C" __global__ void __launch_bounds__(256)
    mask_lanes(const u64* x, u64* out, i64 n, u32 row, u64 tail, u32 k0, u32 k1, u32 k2, u32 k3, u32 k4, u32 k5, u32 k6,
               u32 k7) {
  SHARED(chacha::Stream, stream);
  const u32 key[8] = {k0, k1, k2, k3, k4, k5, k6, k7};
  stream.fill(key, (i64)blockIdx.x * THREADS);
  const i64 first = (i64)blockIdx.x * (chacha::STREAM_BYTES / 8);
  for (int q = threadIdx.x; q < chacha::STREAM_BYTES / 8 && first + q < n; q += THREADS) {
    const u64 word = stream.at(8 * q, 8);
    out[first + q] = x[first + q] ^ ((u32)(first + q + 1) % row ? word : word & tail);
  }
}
