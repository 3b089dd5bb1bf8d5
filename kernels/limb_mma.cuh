// The ring product on INT8 tensor cores, shared by limb_gemm.cu and limb_conv.cu.
//
// A word is L bytes ("limbs"); modulo 2^(8 L), x w = sum_d 2^(8 d) sum_{i + j = d} x_i w_j with d < L: L (L + 1) / 2 limb
// pairs, one 32-bit accumulator a diagonal d. Of diagonal d only the low 8 L - 8 d bits count, so it may wrap modulo 2^32
// where that is at most 32; below, it is exact while (d + 1) 255^2 K < 2^32 for the largest such d = L - 5. Hence
// K <= 16512 (L = 8), 33025 (L = 6), 66051 (L = 5), any K (L <= 4), padding counted; longer sums are cut by the caller.
//
// A block makes a 64x64 tile of out, 8 warps of 32x16; slices of 32 bytes of K of all limbs of both operands pass through
// a ring of three stages in shared memory (L x 4 KB each), filled by cp.async two slices ahead. Rows are 32 bytes; chunk c
// of row r lies at c ^ (r >> 2 & 1), so that the eight rows of an ldmatrix meet all 32 banks.
// One A fragment is alive at a time; all B fragments and all accumulators stay in registers: 16 L + 4 L + 4.
#pragma once
#include "ring.cuh"

namespace limb {

constexpr int TILE = 64, SLICE = 32, STAGES = 3;
constexpr int PLANE = TILE * SLICE;  // bytes of one limb of one operand in a stage

// Byte of chunk `chunk` (16 bytes) of row `row` in a plane of a stage.
DEVICE int place(int row, int chunk) { return row * SLICE + ((chunk ^ (row >> 2 & 1)) << 4); }

template <int L>
struct Accumulators {
  u32 value[L][2][2][4];  // diagonal, 16 rows, 8 columns, fragment

  DEVICE_MEMBER void clear() {
#pragma unroll
    for (int i = 0; i < L * 16; ++i) (&value[0][0][0][0])[i] = 0;
  }

  // One slice: both operands of `stage` (A's planes, then B's).
  DEVICE_MEMBER void multiply(shared_ptr stage) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // ldmatrix x4 of A: rows 0-7, 8-15 of chunk 0, then of chunk 1. Of B: chunks 0, 1 of columns 0-7, then of 8-15.
    const shared_ptr a_base = stage + place(warp / 4 * 32 + (lane & 15), lane >> 4);
    const shared_ptr b_base = stage + L * PLANE + place(warp % 4 * 16 + (lane & 7) + (lane >> 4 << 3), lane >> 3 & 1);
    u32 b[L][4];
#pragma unroll
    for (int j = 0; j < L; ++j) ldmatrix_x4(b[j], b_base + j * PLANE);
#pragma unroll
    for (int i = 0; i < L; ++i)
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        u32 a[4];
        ldmatrix_x4(a, a_base + i * PLANE + m * 16 * SLICE);
#pragma unroll
        for (int j = 0; j < L - i; ++j)
#pragma unroll
          for (int n = 0; n < 2; ++n) mma_u8(value[i + j][m][n], a, b[j][2 * n], b[j][2 * n + 1]);
      }
  }

  // out = (sum_d 2^(8 d) value_d + addend + bias) & mask; addend and bias may be null.
  DEVICE_MEMBER void store(u64* out, const u64* addend, const u64* bias, i64 first_row, i64 rows, int first_column,
                           int columns, u64 mask) const {
    const int thread = (int)here(threadIdx.x), lane = thread % 32, warp = thread / 32;
    // A pair of columns at a time: the accumulators die as the words are made.
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          u64 total[2] = {};
#pragma unroll
          for (int d = 0; d < L; ++d)
#pragma unroll
            for (int e = 0; e < 2; ++e) total[e] += (u64)here(value[d][m][n][2 * half + e]) << (8 * d);
          const i64 row = first_row + (warp / 4 * 32 + m * 16 + half * 8 + lane / 4);
          const int column = first_column + (warp % 4 * 16 + n * 8 + lane % 4 * 2);
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const bool inside = row < rows && column + e < columns;
            const i64 at = row * columns + column + e;
            if (inside && addend) total[e] += addend[at];
            if (inside && bias) total[e] += bias[column + e];
            if (inside) out[at] = total[e] & mask;
          }
        }
  }
};

// Runs all slices. `source.fetch(stage)` starts the copies of the next slice; it is called exactly `slices` times.
template <int L, class Source>
DEVICE void accumulate(Accumulators<L>& sum, Source& source, int slices) {
  const shared_ptr shared = shared_address(dynamic_shared());
  constexpr int STAGE = 2 * L * PLANE;
  for (int s = 0; s < STAGES - 1; ++s) {
    if (s < slices) source.fetch(shared + s * STAGE);
    cp_async_commit();
  }
  shared_ptr stage = shared, next = shared + (STAGES - 1) * STAGE;
  for (int s = 0; s < slices; ++s) {
    cp_async_wait<STAGES - 2>();  // slice s has landed, of this thread
    __syncthreads();              // of all threads; and all are done with slice s - 1, whose stage is filled next
    if (s + STAGES - 1 < slices) source.fetch(next);
    cp_async_commit();
    sum.multiply(stage);
    next = stage;
    stage = stage == shared + (STAGES - 1) * STAGE ? shared : stage + STAGE;
  }
  cp_async_wait<0>();
}

}  // namespace limb
