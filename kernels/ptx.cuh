// Every inline PTX instruction of this project, each with a host body that says what it does.
//
// Device: NVRTC, sm_80 and later. Host: the emulator of tests/emulator, whose runtime supplies the `emu_` functions; a
// warp-wide instruction is a meeting point of its 32 threads. That a device body does what its host body says is the one
// thing the emulator cannot prove: `kernels/probe.cu` runs each of them for `bench.gpu --part conformance`.
// Source: PTX ISA 9.0, sections named below.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#if defined(__CUDACC_RTC__)
#define ON_DEVICE 1
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
// Dynamic shared memory of one kernel; the launcher reads the number out of this line.
#define DYNAMIC_SHARED(kernel, bytes)
typedef unsigned shared_ptr;  // an address in the shared window
#else
#define ON_DEVICE 0
#define DEVICE static inline
#define DEVICE_MEMBER inline
#define DYNAMIC_SHARED(kernel, bytes)
typedef u64 shared_ptr;
#endif

// One object of static shared memory.
#if ON_DEVICE
#define SHARED(type, name) __shared__ type name
#else
#define SHARED(type, name) type& name = *reinterpret_cast<type*>(emu_static_shared(sizeof(type), __LINE__))
#endif

// The block's dynamic shared memory.
DEVICE u8* dynamic_shared() {
#if ON_DEVICE
  extern __shared__ __align__(128) u8 gpumpc_shared[];
  return gpumpc_shared;
#else
  return emu_dynamic_shared();
#endif
}

// Address of shared memory as the instructions below take it.
DEVICE shared_ptr shared_address(const void* p) {
#if ON_DEVICE
  return (unsigned)__cvta_generic_to_shared(p);
#else
  return (u64)p;
#endif
}

// d += a b on unsigned bytes, a 16x32 row-major, b 32x8 column-major, d 16x8; sums wrap modulo 2^32.
// "Warp-level matrix instructions: mma", shape .m16n8k32, types .u8.u8.s32 without .satfinite.
DEVICE void mma_u8(u32 (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if ON_DEVICE
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  emu_mma_u8(d, a, b0, b1);
#endif
}

// Four 8x8 matrices of 16-bit entries: lane 8 i + r names row r of matrix i (16 bytes of shared memory); lane l receives
// entries 2 (l % 4) and the next of row l / 4 of each. "Warp-level matrix instructions: ldmatrix".
DEVICE void ldmatrix_x4(u32 (&d)[4], shared_ptr row) {
#if ON_DEVICE
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(row)
               : "memory");
#else
  emu_ldmatrix_x4(d, row);
#endif
}

// Copy 16 bytes from global to shared memory, later; zeros where not `valid` (then nothing is read).
// "Data movement: cp.async", .cg with a source size.
DEVICE void cp_async_16(shared_ptr to, const void* from, bool valid) {
#if ON_DEVICE
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
#else
  emu_cp_async_16(to, from, valid);
#endif
}

// Close the group of this thread's copies. "cp.async.commit_group".
DEVICE void cp_async_commit() {
#if ON_DEVICE
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#else
  emu_cp_async_commit();
#endif
}

// Wait until at most PENDING of this thread's groups are on their way. "cp.async.wait_group".
template <int PENDING>
DEVICE void cp_async_wait() {
#if ON_DEVICE
  asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING) : "memory");
#else
  emu_cp_async_wait(PENDING);
#endif
}

// x itself, known from here on and not before: keeps what an epilogue makes of it out of the registers of what precedes.
DEVICE u32 here(u32 x) {
#if ON_DEVICE
  asm volatile("" : "+r"(x)::"memory");
#endif
  return x;
}
