// Uniform words and lanes from a 32-byte key: ChaCha20 (RFC 8439), zero nonce, block counter from 0. Bit-equal to the
// stream of gpumpc/ring/prg.py.
//
//   chacha_words  out[i] = word i of `word_bytes` little-endian bytes, & mask
//   chacha_lanes  out[p, j] = 8 bytes; the last of each row of `row` lane words & tail
//
// Shapes: out (n). Layout: flat words. Launch: 256 threads, 16384 stream bytes a block. Largest: 2^32 stream blocks, after
// which the counter would wrap: the caller refuses more; fewer than 2^32 lane words.
// Fast because: seeds are arguments, state is registers, and shared memory turns each thread's 64 bytes into whole
// sectors; bound by the integer pipe, 15 instructions a byte.
#include "chacha.cuh"

extern "C" __global__ void __launch_bounds__(256) chacha_words(u64* out, i64 n, int word_bytes, u64 mask, u32 k0, u32 k1,
                                                                u32 k2, u32 k3, u32 k4, u32 k5, u32 k6, u32 k7) {
  SHARED(chacha::Stream, stream);
  const u32 key[8] = {k0, k1, k2, k3, k4, k5, k6, k7};
  stream.fill(key, (i64)blockIdx.x * THREADS);
  const int count = chacha::STREAM_BYTES / word_bytes;
  const i64 first = (i64)blockIdx.x * count;
  for (int q = threadIdx.x; q < count && first + q < n; q += THREADS)
    out[first + q] = stream.at(q * word_bytes, word_bytes) & mask;
}

extern "C" __global__ void __launch_bounds__(256) chacha_lanes(u64* out, i64 n, u32 row, u64 tail, u32 k0, u32 k1, u32 k2,
                                                                u32 k3, u32 k4, u32 k5, u32 k6, u32 k7) {
  SHARED(chacha::Stream, stream);
  const u32 key[8] = {k0, k1, k2, k3, k4, k5, k6, k7};
  stream.fill(key, (i64)blockIdx.x * THREADS);
  const i64 first = (i64)blockIdx.x * (chacha::STREAM_BYTES / 8);
  for (int q = threadIdx.x; q < chacha::STREAM_BYTES / 8 && first + q < n; q += THREADS) {
    const u64 word = stream.at(8 * q, 8);
    out[first + q] = (u32)(first + q + 1) % row ? word : word & tail;
  }
}
