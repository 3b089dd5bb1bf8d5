// Ring product on INT8 tensor cores: out = x w (+ x2 w2) (+ addend + bias) modulo 2^bits, from limb planes.
//
// The second pair is what a Beaver product needs: E W_p + A_p F in one pass, with the dealer's term as `addend`.
// Shapes: x, x2 planes (P, M, KP), w, w2 planes (P, N, KP), KP a multiple of 32, padded with zeros, P >= L; out, addend
// (M, N) words; bias (N). limb_gemm_l<L> is exact modulo 2^(8 L): L = 4, 5, 6, 8 for up to 32, 40, 48, 64 bits.
// Launch: blocks = ceil(M / 64) ceil(N / 64), 256 threads, 24 L KB of shared memory. Largest: pairs x slices x 32 within
// the bound of limb_mma.cuh; M N < 2^37. x2 = w2 = null for one pair. Slices first .. first + slices - 1 of 32 are summed.
// Fast because: L (L + 1) / 2 tensor-core products instead of 64-bit multiplications; see limb_mma.cuh.
#include "limb_mma.cuh"

// Threads 0-127 copy rows of x, the others rows of w: 16 bytes of each limb plane a slice.
template <int L>
struct GemmSource {
  const u8 *from, *second;
  i64 plane;
  int offset, left, slices;
  bool inside;

  DEVICE_MEMBER void fetch(shared_ptr stage) {
    const u8* at = from;  // stepped, not indexed: L offsets would fill the registers
#pragma unroll
    for (int l = 0; l < L; ++l, at += plane) cp_async_16(stage + offset + l * limb::PLANE, at, inside);
    from += limb::SLICE;
    if (--left == 0) from = second, left = slices;
  }
};

template <int L>
DEVICE void limb_gemm(const u8* x, const u8* w, const u8* x2, const u8* w2, u64* out, const u64* addend, const u64* bias,
                      i64 M, int N, int KP, int first, int slices, u64 mask) {
  const int column_tiles = (N + limb::TILE - 1) / limb::TILE;
  const i64 first_row = (i64)(blockIdx.x / column_tiles) * limb::TILE;
  const int first_column = (int)(blockIdx.x % column_tiles) * limb::TILE;
  const bool is_x = threadIdx.x < 128;
  const int local = threadIdx.x / 2 % limb::TILE, chunk = threadIdx.x % 2;
  const i64 row = (is_x ? first_row : first_column) + local, rows = is_x ? M : N;
  const bool inside = row < rows;
  const i64 start = (inside ? row : 0) * KP + (i64)first * limb::SLICE + chunk * 16;
  GemmSource<L> source = {(is_x ? x : w) + start,
                          x2 ? (is_x ? x2 : w2) + start : nullptr,
                          rows * KP,
                          (is_x ? 0 : L * limb::PLANE) + limb::place(local, chunk),
                          slices,
                          slices,
                          inside};
  limb::Accumulators<L> sum;
  sum.clear();
  limb::accumulate<L>(sum, source, x2 ? 2 * slices : slices);
  sum.store(out, addend, bias, first_row, M, first_column, N, mask);
}

DYNAMIC_SHARED(limb_gemm_l4, 49152)
DYNAMIC_SHARED(limb_gemm_l5, 61440)
DYNAMIC_SHARED(limb_gemm_l6, 73728)
DYNAMIC_SHARED(limb_gemm_l8, 98304)
extern "C" __global__ void __launch_bounds__(256)
    limb_gemm_l4(const u8* x, const u8* w, const u8* x2, const u8* w2, u64* out, const u64* addend, const u64* bias, i64 M,
                 int N, int KP, int first, int slices, u64 mask) {
  limb_gemm<4>(x, w, x2, w2, out, addend, bias, M, N, KP, first, slices, mask);
}
extern "C" __global__ void __launch_bounds__(256)
    limb_gemm_l5(const u8* x, const u8* w, const u8* x2, const u8* w2, u64* out, const u64* addend, const u64* bias, i64 M,
                 int N, int KP, int first, int slices, u64 mask) {
  limb_gemm<5>(x, w, x2, w2, out, addend, bias, M, N, KP, first, slices, mask);
}
extern "C" __global__ void __launch_bounds__(256)
    limb_gemm_l6(const u8* x, const u8* w, const u8* x2, const u8* w2, u64* out, const u64* addend, const u64* bias, i64 M,
                 int N, int KP, int first, int slices, u64 mask) {
  limb_gemm<6>(x, w, x2, w2, out, addend, bias, M, N, KP, first, slices, mask);
}
extern "C" __global__ void __launch_bounds__(256)
    limb_gemm_l8(const u8* x, const u8* w, const u8* x2, const u8* w2, u64* out, const u64* addend, const u64* bias, i64 M,
                 int N, int KP, int first, int slices, u64 mask) {
  limb_gemm<8>(x, w, x2, w2, out, addend, bias, M, N, KP, first, slices, mask);
}
