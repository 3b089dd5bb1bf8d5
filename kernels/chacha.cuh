// ChaCha20's block function, RFC 8439 section 2.3, with a zero nonce and a 32-bit counter.
#pragma once
#include "ring.cuh"

namespace chacha {

DEVICE void quarter(u32& a, u32& b, u32& c, u32& d) {
  a += b, d = __byte_perm(d ^ a, 0, 0x1032);  // rotate by 16
  c += d, b = rotate_left(b ^ c, 12);
  a += b, d = __byte_perm(d ^ a, 0, 0x2103);  // rotate by 8
  c += d, b = rotate_left(b ^ c, 7);
}

DEVICE void block(u32 (&x)[16], const u32 (&key)[8], u32 counter) {
  const u32 start[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, key[0], key[1], key[2], key[3],
                         key[4],     key[5],     key[6],     key[7],     counter, 0,      0,      0};
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] = start[i];
#pragma unroll 2
  for (int round = 0; round < 10; ++round) {
    quarter(x[0], x[4], x[8], x[12]);
    quarter(x[1], x[5], x[9], x[13]);
    quarter(x[2], x[6], x[10], x[14]);
    quarter(x[3], x[7], x[11], x[15]);
    quarter(x[0], x[5], x[10], x[15]);
    quarter(x[1], x[6], x[11], x[12]);
    quarter(x[2], x[7], x[8], x[13]);
    quarter(x[3], x[4], x[9], x[14]);
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] += start[i];
}

// The key stream of THREADS consecutive blocks, one a thread, for all threads of a block to read.
constexpr int STREAM_BYTES = THREADS * 64;
constexpr int STRIDE = THREADS + 1;  // word w of every block side by side, shifted by a bank a word

struct Stream {
  u32 word[16 * STRIDE];

  // Blocks first .. first + THREADS - 1; every thread of the block calls this, then may read.
  DEVICE_MEMBER void fill(const u32 (&key)[8], i64 first) {
    u32 x[16];
    block(x, key, (u32)(first + threadIdx.x));
#pragma unroll
    for (int w = 0; w < 16; ++w) word[w * STRIDE + threadIdx.x] = x[w];
    __syncthreads();
  }

  // The word of `size` bytes (1, 2, 4, 8) at a byte offset into these blocks that is a multiple of it.
  DEVICE_MEMBER u64 at(int byte, int size) const {
    const int from = byte / 64, w = byte % 64 / 4;
    const u64 low = word[w * STRIDE + from];
    if (size == 8) return low | (u64)word[(w + 1) * STRIDE + from] << 32;
    return low >> (8 * (byte % 4)) & (0xffffffffull >> (32 - 8 * size));
  }
};

}  // namespace chacha
