// Depthwise convolution: out[b, y, x, c] = sum_{u, v} in[b, sy y + u - top, sx x + v - left, c] w[u, v, c] (+ addend +
// bias[c]) modulo 2^bits, zero padding.
//
// Shapes: in (B, H, W, C), w (KH, KW, C), out and addend (B, HO, WO, C), bias (C); n = elements of out. Layout: NHWC words.
// Launch: 256 threads, 1024 elements of out a block. Largest: n < 2^32 - 2^10.
// Fast because: neighbouring threads take neighbouring channels, so that every load is whole sectors and the windows of
// neighbouring pixels meet in the cache; 16 bytes of memory and KH KW multiply-adds an element.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256)
    depthwise(const u64* in, const u64* w, u64* out, const u64* addend, const u64* bias, u32 n, int H, int W, int C, int HO,
              int WO, int KH, int KW, int stride_y, int stride_x, int top, int left, u64 mask) {
  EACH32(i, n) {
    const u32 pixel = i / (u32)C, row = pixel / (u32)WO;
    const int c = i % (u32)C, x = pixel % (u32)WO, y = row % (u32)HO;
    const i64 image = row / (u32)HO;
    u64 sum = 0;
    for (int u = 0; u < KH; ++u) {
      const int line = y * stride_y + u - top;
      if (line < 0 || line >= H) continue;
      for (int v = 0; v < KW; ++v) {
        const int column = x * stride_x + v - left;
        if (column >= 0 && column < W) sum += in[((image * H + line) * W + column) * C + c] * w[(u * KW + v) * C + c];
      }
    }
    if (addend) sum += addend[i];
    if (bias) sum += bias[c];
    out[i] = sum & mask;
  }
}
