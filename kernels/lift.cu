// The lift of shares from modulo 2^low to modulo 2^high, of one value or of the selected one of two candidates.
//
//   lift_mask    tops = top bits m_p of the shares, masked = tops ^ masks, which this server sends
//   lift_finish  v = s_p - 2^low w_p modulo 2^high of the selected candidate, from the masked bits g_p of both, with
//                w_0 = m_0 - m_0 g_1 - (1 - 2 g_1)(1 - 2 g_0) P_0,  w_1 = m_1 - (1 - 2 g_1)(g_0 a_1 + (1 - 2 g_0) P_1)
//
// Shapes: shares (C, n) words, C = 1 or 2, as two arrays, the second null where C = 1; products (C, n); tops, masks, masked, theirs (C, lanes) lane words, lanes = ceil(n / 64)
// (lift_mask takes them as halves, 2 lanes a row); choice (lanes), null where C = 1; out (n).
// Launch: 256 threads; lift_mask 256 elements of a row of 64 lanes a block, rows one after another; lift_finish 1024.
// Largest: C n < 2^32 - 2^10. Fast because: one pass each; a ballot makes 32 bits of a lane at once.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256)
    lift_mask(const u64* first, const u64* second, const u32* masks, u32* tops, u32* masked, i64 n, u32 halves, u32 all, int low) {
  const u32 at = blockIdx.x * THREADS + threadIdx.x, row = at / (32 * halves), i = at % (32 * halves);
  const u32 half = __ballot_sync(0xffffffffu, at / 32 < all && i < n && (row ? second : first)[i] >> (low - 1) & 1);
  if (at % 32 == 0 && at / 32 < all) {
    tops[at / 32] = half;
    masked[at / 32] = half ^ masks[at / 32];
  }
}

// (1 - 2 bit) x
DEVICE u64 flip(u64 bit, u64 x) { return x - bit * (x + x); }

extern "C" __global__ void __launch_bounds__(256)
    lift_finish(const u64* first, const u64* second, const u64* products, const u64* tops, const u64* masks, const u64* masked,
              const u64* theirs, const u64* choice, u64* out, i64 n, i64 lanes, int party, int low, u64 bit_mask) {
  EACH(i, n) {
    const i64 c = choice && choice[i / 64] >> (i % 64) & 1;
    const i64 lane = c * lanes + i / 64;
    const u64 m = tops[lane] >> (i % 64) & 1, a = masks[lane] >> (i % 64) & 1;
    const u64 own = masked[lane] >> (i % 64) & 1, other = theirs[lane] >> (i % 64) & 1, p = products[c * n + i];
    const u64 carry = party == 0 ? m - m * other - flip(other, flip(own, p)) : m - flip(own, other * a + flip(other, p));
    out[i] = ((c ? second : first)[i] - (carry << low)) & bit_mask;
  }
}
