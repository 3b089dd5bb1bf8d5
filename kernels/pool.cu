// Sums over windows, no padding: out[b, y, x, c] = sum_{u, v} in[b, sy y + u, sx x + v, c] modulo 2^64.
//
// Shapes: in (B, H, W, C), out (B, HO, WO, C), n = elements of out. Layout: NHWC words. Launch: 256 threads, 1024 elements
// of out a block. Largest: n < 2^32 - 2^10.
// Fast because: neighbouring threads read neighbouring channels; overlapping windows hit the caches.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(256)
    window_sum(const u64* in, u64* out, u32 n, int H, int W, int C, int HO, int WO, int KH, int KW, int stride_y, int stride_x) {
  EACH32(i, n) {
    const u32 pixel = i / (u32)C, row = pixel / (u32)WO;
    const int c = i % (u32)C, x = pixel % (u32)WO, y = row % (u32)HO;
    const i64 image = row / (u32)HO;
    u64 sum = 0;
    for (int u = 0; u < KH; ++u)
      for (int v = 0; v < KW; ++v) sum += in[((image * H + y * stride_y + u) * W + x * stride_x + v) * C + c];
    out[i] = sum;
  }
}
