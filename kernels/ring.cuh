// What most kernels share: one thread an element, four elements a thread.
#pragma once
#include "ptx.cuh"

constexpr int THREADS = 256;
constexpr int PER_THREAD = 4;  // elements; blocks of THREADS * PER_THREAD, as the launcher counts them

// The body runs for each of this thread's elements i < n. Neighbouring threads take neighbouring elements, so that every
// access is whole sectors, and the four are independent, so that four loads are in flight.
#define EACH(i, n)                                                                                      \
  _Pragma("unroll") for (int each_ = 0; each_ < PER_THREAD; ++each_) if (                               \
      const i64 i = ((i64)blockIdx.x * PER_THREAD + each_) * THREADS + threadIdx.x; i < (i64)(n))

// The same for n < 2^32 - 2^10, where the body divides i: a 64-bit division is a subroutine.
#define EACH32(i, n)                                                                                    \
  _Pragma("unroll") for (int each_ = 0; each_ < PER_THREAD; ++each_) if (                               \
      const u32 i = ((u32)blockIdx.x * PER_THREAD + each_) * THREADS + threadIdx.x; i < (n))

DEVICE u32 rotate_left(u32 x, int by) { return __funnelshift_l(x, x, by); }
