// The lift of shares from modulo 2^low to modulo 2^high, of one value or of two candidates of which one is kept.
//
//   lift_tell  tops = top bits m_p of the shares, told = tops ^ masks: what this server tells the other
//   lift_keep  v = s_p - 2^low w_p modulo 2^high of the kept candidate, from what both told, with
//              w_0 = m_0 - m_0 g_1 - (1 - 2 g_1)(1 - 2 g_0) P_0,  w_1 = m_1 - (1 - 2 g_1)(g_0 a_1 + (1 - 2 g_0) P_1)
//
// Shapes: shares (C, n) words, C = 1 or 2, as two arrays, the second null where C = 1; products (C, n); tops, masks, told, theirs (C, lanes) lane words, lanes = ceil(n / 64)
// (lift_tell takes them as halves, 2 lanes a row); kept (lanes), null where C = 1; out (n).
// Launch: 256 threads; lift_tell 256 elements of a row of 64 lanes a block, rows one after another; lift_keep 1024.
// Largest: C n < 2^32 - 2^10. Fast because: one pass each; a ballot makes 32 bits of a lane at once.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256)
    lift_tell(const u64* first, const u64* second, const u32* masks, u32* tops, u32* told, i64 n, u32 halves, u32 all, int low) {
  const u32 at = blockIdx.x * THREADS + threadIdx.x, row = at / (32 * halves), i = at % (32 * halves);
  const u32 half = __ballot_sync(0xffffffffu, at / 32 < all && i < n && (row ? second : first)[i] >> (low - 1) & 1);
  if (at % 32 == 0 && at / 32 < all) {
    tops[at / 32] = half;
    told[at / 32] = half ^ masks[at / 32];
  }
}

// (1 - 2 bit) x
DEVICE u64 flip(u64 bit, u64 x) { return x - bit * (x + x); }

extern "C" __global__ void __launch_bounds__(256)
    lift_keep(const u64* first, const u64* second, const u64* products, const u64* tops, const u64* masks, const u64* told,
              const u64* theirs, const u64* kept, u64* out, i64 n, i64 lanes, int party, int low, u64 keep) {
  EACH(i, n) {
    const i64 c = kept && kept[i / 64] >> (i % 64) & 1;
    const i64 lane = c * lanes + i / 64;
    const u64 m = tops[lane] >> (i % 64) & 1, a = masks[lane] >> (i % 64) & 1;
    const u64 said = told[lane] >> (i % 64) & 1, heard = theirs[lane] >> (i % 64) & 1, p = products[c * n + i];
    const u64 carry = party == 0 ? m - m * heard - flip(heard, flip(said, p)) : m - flip(said, heard * a + flip(heard, p));
    out[i] = ((c ? second : first)[i] - (carry << low)) & keep;
  }
}
