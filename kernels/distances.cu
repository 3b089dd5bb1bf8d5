// A few queries against many rows: out = x w (+ addend + bias) modulo 2^bits for a short x, as a search computes distances.
//
// Shapes: x (M, K), M <= 8; w (K, N); out and addend (M, N); bias (N). Layout: row-major words. Launch: 256 columns a
// block, 256 threads. Largest: K < 2^31, N < 2^39; sums wrap.
// Fast because: w is read once, in whole sectors, for all queries; 8 bytes a multiply-add at M = 1: the copy bandwidth.
#include "ring.cuh"

constexpr int ROWS = 8, SLICE = 256;

struct Queries {
  u64 word[ROWS * SLICE];  // [query][k]
};

extern "C" __global__ void __launch_bounds__(256)
    distances(const u64* x, const u64* w, u64* out, const u64* addend, const u64* bias, int M, int K, i64 N, u64 mask) {
  SHARED(Queries, queries);
  const i64 column = (i64)blockIdx.x * THREADS + threadIdx.x;
  u64 sum[ROWS] = {};
  for (int start = 0; start < K; start += SLICE) {
#pragma unroll
    for (int m = 0; m < ROWS; ++m) {
      const int k = start + threadIdx.x;
      queries.word[m * SLICE + threadIdx.x] = m < M && k < K ? x[(i64)m * K + k] : 0;
    }
    __syncthreads();
    const int count = K - start < SLICE ? K - start : SLICE;
    if (column < N)
#pragma unroll 4
      for (int k = 0; k < count; ++k) {
        const u64 entry = w[(start + k) * N + column];
#pragma unroll
        for (int m = 0; m < ROWS; ++m) sum[m] += queries.word[m * SLICE + k] * entry;
      }
    __syncthreads();
  }
  if (column >= N) return;
#pragma unroll
  for (int m = 0; m < ROWS; ++m)
    if (m < M) {
      u64 total = sum[m];
      if (addend) total += addend[m * N + column];
      if (bias) total += bias[column];
      out[m * N + column] = total & mask;
    }
}
