// Ring convolution on INT8 tensor cores, implicit GEMM:
//   out[b,y,z,o] = sum x[b, sy y + u - top, sx z + v - left, c] w[u,v,c,o] (+ the same of x2, w2) (+ addend + bias[o])
// modulo 2^bits, from limb planes, zero padding.
//
// Shapes: x, x2 planes (P, B, H, W, CP), CP = channels padded with zeros to a multiple of 32; w, w2 planes (P, N, KH KW CP);
// out, addend (B, HO, WO, N) words; bias (N). limb_conv_l<L> is exact modulo 2^(8 L): L = 4, 5, 6, 8.
// Launch: blocks = ceil(B HO WO / 64) ceil(N / 64), 256 threads, 24 L KB of shared memory. Largest: pairs x slices x 32
// within the bound of limb_mma.cuh; B HO WO < 2^37 / N. x2 = w2 = null for one pair. Slices first .. first + slices - 1
// of 32 channels are summed, taps outermost.
// Fast because: no im2col buffer; a slice lies within one tap, so a thread steps through its window by additions alone.
// Three channels would be padded to 32: the caller gathers such windows (limb_planes.cu) and multiplies.
#include "limb_mma.cuh"

// Threads 0-127 copy pixels of x, the others output channels of w: 16 bytes of each limb plane a slice.
template <int L>
struct ConvSource {
  const u8* origin;  // of the row's window at tap 0 (x), or of its filter (w)
  const u8* second;
  i64 plane, here;  // bytes of a plane; of the slice, from origin
  i64 next_line;    // from the last tap of a line to the next line
  int offset, left;
  int y, z, u, v, c, H, W, KW, CP;
  int first_u, first_v, first_c;
  i64 first_here;
  int slices;
  bool is_x, inside;

  DEVICE_MEMBER void fetch(shared_ptr stage) {
    const bool valid = inside && (!is_x || ((u32)(y + u) < (u32)H && (u32)(z + v) < (u32)W));
    const u8* at = origin + here;  // stepped, not indexed: L offsets would fill the registers
#pragma unroll
    for (int l = 0; l < L; ++l, at += plane) cp_async_16(stage + offset + l * limb::PLANE, at, valid);
    here += limb::SLICE;
    if (is_x && (c += limb::SLICE) == CP) {
      c = 0;
      if (++v == KW) v = 0, ++u, here += next_line;
    }
    if (--left == 0) origin = second, here = first_here, u = first_u, v = first_v, c = first_c, left = slices;
  }
};

template <int L>
DEVICE void limb_conv(const u8* x, const u8* w, const u8* x2, const u8* w2, u64* out, const u64* addend, const u64* bias,
                      int B, int H, int W, int CP, int HO, int WO, int N, int KW, int taps, int stride_y, int stride_x,
                      int top, int left, int first, int slices, u64 mask) {
  const int column_tiles = (N + limb::TILE - 1) / limb::TILE;
  const i64 first_row = (i64)(blockIdx.x / column_tiles) * limb::TILE, pixels = (i64)B * HO * WO;
  const int first_column = (int)(blockIdx.x % column_tiles) * limb::TILE;
  const int local = threadIdx.x / 2 % limb::TILE, chunk = threadIdx.x % 2;
  ConvSource<L> s;
  s.is_x = threadIdx.x < 128;
  s.offset = (s.is_x ? 0 : L * limb::PLANE) + limb::place(local, chunk);
  s.slices = s.left = slices;
  s.H = H, s.W = W, s.KW = KW, s.CP = CP;
  s.y = s.z = s.u = s.v = s.c = 0;
  s.next_line = 0;
  i64 start;
  if (s.is_x) {
    const i64 pixel = first_row + local;
    s.inside = pixel < pixels;
    const u32 in_image = (u32)(s.inside ? pixel % ((i64)HO * WO) : 0);
    const i64 image = s.inside ? pixel / ((i64)HO * WO) : 0;
    s.y = (int)(in_image / WO) * stride_y - top, s.z = (int)(in_image % WO) * stride_x - left;
    const int per_tap = CP / limb::SLICE, tap = first / per_tap;
    s.u = tap / KW, s.v = tap % KW, s.c = first % per_tap * limb::SLICE;
    s.plane = (i64)B * H * W * CP;
    s.next_line = (i64)(W - KW) * CP;
    start = ((image * H + s.y) * W + s.z) * CP + chunk * 16;
    s.here = ((i64)s.u * W + s.v) * CP + s.c;
  } else {
    const int channel = first_column + local;
    s.inside = channel < N;
    s.plane = (i64)N * taps * CP;
    start = (i64)(s.inside ? channel : 0) * taps * CP + chunk * 16;
    s.here = (i64)first * limb::SLICE;
  }
  s.first_u = s.u, s.first_v = s.v, s.first_c = s.c, s.first_here = s.here;
  s.origin = (s.is_x ? x : w) + start;
  s.second = x2 ? (s.is_x ? x2 : w2) + start : nullptr;
  limb::Accumulators<L> sum;
  sum.clear();
  limb::accumulate<L>(sum, s, x2 ? 2 * slices : slices);
  sum.store(out, addend, bias, first_row, pixels, first_column, N, mask);
}

DYNAMIC_SHARED(limb_conv_l4, 49152)
DYNAMIC_SHARED(limb_conv_l5, 61440)
DYNAMIC_SHARED(limb_conv_l6, 73728)
DYNAMIC_SHARED(limb_conv_l8, 98304)

extern "C" __global__ void __launch_bounds__(256)
    limb_conv_l4(const u8* x, const u8* w, const u8* x2, const u8* w2, u64* out, const u64* addend, const u64* bias, int B,
                 int H, int W, int CP, int HO, int WO, int N, int KW, int taps, int stride_y, int stride_x, int top, int left,
                 int first, int slices, u64 mask) {
  limb_conv<4>(x, w, x2, w2, out, addend, bias, B, H, W, CP, HO, WO, N, KW, taps, stride_y, stride_x, top, left, first,
               slices, mask);
}
extern "C" __global__ void __launch_bounds__(256)
    limb_conv_l5(const u8* x, const u8* w, const u8* x2, const u8* w2, u64* out, const u64* addend, const u64* bias, int B,
                 int H, int W, int CP, int HO, int WO, int N, int KW, int taps, int stride_y, int stride_x, int top, int left,
                 int first, int slices, u64 mask) {
  limb_conv<5>(x, w, x2, w2, out, addend, bias, B, H, W, CP, HO, WO, N, KW, taps, stride_y, stride_x, top, left, first,
               slices, mask);
}
extern "C" __global__ void __launch_bounds__(256)
    limb_conv_l6(const u8* x, const u8* w, const u8* x2, const u8* w2, u64* out, const u64* addend, const u64* bias, int B,
                 int H, int W, int CP, int HO, int WO, int N, int KW, int taps, int stride_y, int stride_x, int top, int left,
                 int first, int slices, u64 mask) {
  limb_conv<6>(x, w, x2, w2, out, addend, bias, B, H, W, CP, HO, WO, N, KW, taps, stride_y, stride_x, top, left, first,
               slices, mask);
}
extern "C" __global__ void __launch_bounds__(256)
    limb_conv_l8(const u8* x, const u8* w, const u8* x2, const u8* w2, u64* out, const u64* addend, const u64* bias, int B,
                 int H, int W, int CP, int HO, int WO, int N, int KW, int taps, int stride_y, int stride_x, int top, int left,
                 int first, int slices, u64 mask) {
  limb_conv<8>(x, w, x2, w2, out, addend, bias, B, H, W, CP, HO, WO, N, KW, taps, stride_y, stride_x, top, left, first,
               slices, mask);
}
