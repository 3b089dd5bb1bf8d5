// One tiny kernel for each wrapper of ptx.cuh and each intrinsic the kernels use: what the emulator says they do is
// compared with what they do on a device by `python -m bench.gpu --part conformance`.
//
// Shapes: of one warp; see each. Layout: row-major. Launch: one block of 32 threads. Largest: that. Fast because: it need
// not be.
#include "ring.cuh"

// d (16, 8) += a (16, 32) b (8, 32)^T, bytes; fragments as limb_mma.cuh loads them.
extern "C" __global__ void __launch_bounds__(32) probe_mma(const u8* a, const u8* b, u32* d) {
  const int lane = threadIdx.x, group = lane / 4, member = lane % 4;
  u32 left[4], sum[4];
  for (int i = 0; i < 4; ++i) {
    left[i] = *(const u32*)(a + (group + i % 2 * 8) * 32 + i / 2 * 16 + member * 4);
    sum[i] = d[(group + i / 2 * 8) * 8 + member * 2 + i % 2];
  }
  mma_u8(sum, left, *(const u32*)(b + group * 32 + member * 4), *(const u32*)(b + group * 32 + 16 + member * 4));
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + member * 2 + i % 2] = sum[i];
}

struct Rows {
  u32 word[32 * 4];
};

// out[lane][i] = what ldmatrix gives lane in register i when lane r names row order[r] of 32 rows of 16 bytes.
extern "C" __global__ void __launch_bounds__(32) probe_ldmatrix(const u32* rows, const u32* order, u32* out) {
  SHARED(Rows, shared);
  for (int i = 0; i < 4; ++i) shared.word[threadIdx.x * 4 + i] = rows[threadIdx.x * 4 + i];
  __syncthreads();
  u32 d[4];
  ldmatrix_x4(d, shared_address(shared.word + 4 * order[threadIdx.x]));
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = d[i];
}

struct Copies {
  u32 word[3 * 32 * 4];
};

// Three groups of copies, of which two are waited for before out[0] and out[1] are read, all before out[2]; lane l copies
// zeros where bit l of `zeros` is one.
extern "C" __global__ void __launch_bounds__(32) probe_cp_async(const u32* in, u32* out, u32 zeros) {
  SHARED(Copies, shared);
  const int lane = threadIdx.x;
  for (int g = 0; g < 3; ++g) {
    cp_async_16(shared_address(shared.word + (g * 32 + lane) * 4), in + (g * 32 + lane) * 4, !(zeros >> lane & 1));
    cp_async_commit();
  }
  cp_async_wait<1>();
  __syncthreads();
  for (int g = 0; g < 2; ++g)
    for (int i = 0; i < 4; ++i) out[(g * 32 + lane) * 4 + i] = shared.word[(g * 32 + (lane + 1) % 32) * 4 + i];
  cp_async_wait<0>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) out[(64 + lane) * 4 + i] = shared.word[(64 + (lane + 1) % 32) * 4 + i];
}

// out[lane] = shuffle over `lanes`, ballot of bit `bit`, byte permutation, rotation, `here`.
extern "C" __global__ void __launch_bounds__(32)
    probe_lanes(const u32* x, const u32* y, u32* out, u32 selector, int lanes, int bit) {
  const int lane = threadIdx.x;
  out[lane] = __shfl_xor_sync(0xffffffffu, x[lane], lanes);
  out[32 + lane] = __ballot_sync(0xffffffffu, x[lane] >> bit & 1);
  out[64 + lane] = __byte_perm(x[lane], y[lane], selector);
  out[96 + lane] = rotate_left(x[lane], bit);
  out[128 + lane] = here(y[lane]);
}
