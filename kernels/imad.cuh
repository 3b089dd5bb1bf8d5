// The integer-pipe product: a 64x64 tile of out from 16-deep slices of both operands in shared memory, 4x4 words a thread.
// The baseline of the tensor-core kernels, and what odd shapes run on.
#pragma once
#include "ring.cuh"

namespace imad {

constexpr int TILE = 64, DEPTH = 16, STRIDE = TILE + 1;  // a stride of 65 words spreads a column over all banks

struct Slices {
  u64 a[DEPTH * STRIDE];  // [k][row]
  u64 b[DEPTH * STRIDE];  // [k][column]
};

struct Accumulator {
  u64 value[4][4] = {};  // rows thread / 16 + 16 i, columns thread % 16 + 16 j
};

DEVICE void multiply(Accumulator& sum, const Slices& s) {
  const int row = threadIdx.x / 16, column = threadIdx.x % 16;
#pragma unroll 4
  for (int k = 0; k < DEPTH; ++k) {
    u64 a[4], b[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = s.a[k * STRIDE + row + 16 * i];
#pragma unroll
    for (int j = 0; j < 4; ++j) b[j] = s.b[k * STRIDE + column + 16 * j];
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) sum.value[i][j] += a[i] * b[j];
  }
}

// out[row][column of `stride`] = (sum + addend + bias) & mask; addend and bias may be null.
DEVICE void store(const Accumulator& sum, u64* out, const u64* addend, const u64* bias, i64 first_row, i64 rows,
                  i64 first_column, i64 columns, i64 stride, u64 mask) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const i64 row = first_row + threadIdx.x / 16 + 16 * i, column = first_column + threadIdx.x % 16 + 16 * j;
      if (row < rows && column < columns) {
        u64 total = sum.value[i][j];
        if (addend) total += addend[row * stride + column];
        if (bias) total += bias[column];
        out[row * stride + column] = total & mask;
      }
    }
}

}  // namespace imad
