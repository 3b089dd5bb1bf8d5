// What CUDA C++ has and g++ has not: put before a kernel source of kernels/ so that g++ compiles the same file.
//
// Every thread of a block is a fiber; what the threads of a warp or block do together is a meeting point in runtime.cpp.
#pragma once

typedef unsigned char emu_u8;
typedef unsigned int emu_u32;
typedef unsigned long long emu_u64;

struct emu_dim {
  emu_u32 x, y, z;
};

extern "C" {
const emu_dim* emu_thread_index();
const emu_dim* emu_block_index();
const emu_dim* emu_block_size();
const emu_dim* emu_grid_size();
emu_u8* emu_dynamic_shared();
void* emu_static_shared(emu_u64 bytes, int site);
void emu_syncthreads();
void emu_syncwarp();
emu_u32 emu_ballot(emu_u32 mask, int predicate);
emu_u32 emu_shuffle_xor(emu_u32 mask, emu_u32 value, int lanes);
emu_u32 emu_shuffle(emu_u32 mask, emu_u32 value, int lane);
void emu_mma_u8(emu_u32* d, const emu_u32* a, emu_u32 b0, emu_u32 b1);
void emu_ldmatrix_x4(emu_u32* d, emu_u64 row);
void emu_cp_async_16(emu_u64 to, const void* from, bool valid);
void emu_cp_async_commit();
void emu_cp_async_wait(int pending);
}

#define __global__
#define __device__
#define __launch_bounds__(...)
#define threadIdx (*emu_thread_index())
#define blockIdx (*emu_block_index())
#define blockDim (*emu_block_size())
#define gridDim (*emu_grid_size())

#define __syncthreads emu_syncthreads
#define __syncwarp emu_syncwarp
#define __ballot_sync emu_ballot
#define __shfl_xor_sync emu_shuffle_xor
#define __shfl_sync emu_shuffle

// CUDA C++ Programming Guide, integer intrinsics.
static inline emu_u32 __funnelshift_l(emu_u32 low, emu_u32 high, int shift) {
  return (emu_u32)(((((emu_u64)high << 32) | low) << (shift & 31)) >> 32);
}
static inline emu_u32 __byte_perm(emu_u32 x, emu_u32 y, emu_u32 selector) {
  const emu_u64 bytes = ((emu_u64)y << 32) | x;
  emu_u32 result = 0;
  for (int i = 0; i < 4; ++i) result |= (emu_u32)(emu_u8)(bytes >> (8 * ((selector >> (4 * i)) & 7))) << (8 * i);
  return result;
}
static inline int __popc(emu_u32 x) { return __builtin_popcount(x); }
