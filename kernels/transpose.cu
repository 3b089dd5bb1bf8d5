// Bits across elements: planes[b, j] bit i = bit b of element 64 j + i, for b < bits; the 64x64 bit transposition.
//
//   to_planes  all of the low `bits` bits        take_bit  the one bit `position`
//   from_bit   words 0 or 1 of one lane
//   from_lanes words 0 or 1 of several lanes: out (rows, n) of lanes (rows, lanes)
//
// Shapes: x, out (n) words; planes (bits, lanes), lane (lanes), lanes = ceil(n / 64). Padding bits are zero.
// Launch: 256 threads; to_planes 1024 elements a block, take_bit 256, the others 1024. Largest n: 2^39; from_lanes
// 2^32 - 2^10 words.
// Fast because: a 32x32 block of bits turns in five shuffles; shared memory gathers 16 lane words a plane, so that planes
// are written in whole sectors of 128 bytes.
#include "ring.cuh"

constexpr int LANES = 16, LANE_STRIDE = LANES + 1;  // lane words a block, and their stride in shared memory

struct Tile {
  u64 word[64 * LANE_STRIDE];  // [bit][lane word]
};

// Thread r of the warp holds row r of a 32x32 bit matrix; afterwards column r.
DEVICE u32 turn(u32 x) {
  const int lane = threadIdx.x % 32;
  u32 m = 0x0000ffff;
#pragma unroll
  for (int j = 16; j; j >>= 1, m ^= m << j) {
    const u32 y = __shfl_xor_sync(0xffffffffu, x, j);
    x = lane & j ? (x & ~m) | (y >> j & m) : (x & m) | (y & m) << j;
  }
  return x;
}

extern "C" __global__ void __launch_bounds__(256) to_planes(const u64* x, u64* planes, i64 n, i64 lanes, int bits) {
  SHARED(Tile, tile);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int k = warp; k < LANES; k += 8) {
    const i64 first = ((i64)blockIdx.x * LANES + k) * 64 + lane;
    const u64 low = first < n ? x[first] : 0, high = first + 32 < n ? x[first + 32] : 0;
    for (int half = 0; half < 2; ++half) {  // 32 bits at a time, of 64 elements
      const u32 front = turn((u32)(low >> (32 * half))), back = turn((u32)(high >> (32 * half)));
      tile.word[(32 * half + lane) * LANE_STRIDE + k] = front | (u64)back << 32;
    }
  }
  __syncthreads();
  for (int q = threadIdx.x; q < bits * LANES; q += THREADS) {
    const i64 column = (i64)blockIdx.x * LANES + q % LANES;
    if (column < lanes) planes[q / LANES * lanes + column] = tile.word[q / LANES * LANE_STRIDE + q % LANES];
  }
}

extern "C" __global__ void __launch_bounds__(256) take_bit(const u64* x, u32* halves, i64 n, i64 n_halves, int position) {
  const i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
  const u32 half = __ballot_sync(0xffffffffu, i < n && x[i] >> position & 1);
  if (i % 32 == 0 && i / 32 < n_halves) halves[i / 32] = half;
}

extern "C" __global__ void __launch_bounds__(256) from_bit(const u64* lane, u64* out, i64 n) {
  EACH(i, n) out[i] = lane[i / 64] >> (i % 64) & 1;
}

extern "C" __global__ void __launch_bounds__(256) from_lanes(const u64* lanes, u64* out, u32 all, u32 n, i64 row) {
  EACH32(i, all) out[i] = lanes[i / n * row + i % n / 64] >> (i % n % 64) & 1;
}
