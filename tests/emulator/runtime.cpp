// The emulator's run time: one launch on the calling thread, block after block, the threads of a block as fibers.
//
// * Thread order ascending, descending, or drawn again each round from a fixed seed: a result that depends on it is a bug.
// * Meeting points (barrier, ballot, shuffle, mma, ldmatrix) hold every thread until all have come; a thread that comes to
//   another meeting point, or has left, is reported.
// * cp.async lands when it is issued, or not before it is waited for.
// * Shared memory starts as 0xCD; arguments lie between pages that may not be touched, constant ones on read-only pages.
// * Race build: -fsanitize=thread makes g++ announce every access to the __tsan_ functions below (the sanitizer's own run
//   time is not linked). Two accesses to one byte, one of them a write, must be ordered by a barrier they both passed.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "shim.h"

namespace {

typedef void (*Entry)(void** arguments);

constexpr size_t STACK_BYTES = 96 << 10;
constexpr size_t PAGE = 4096;
constexpr size_t GUARD = 32 << 20;  // address space alone: a wild index must not reach anything else
constexpr int WARP = 32;
constexpr size_t MAX_STATIC = 48 << 10;

// ---- switching between stacks

#if defined(__x86_64__)
struct Context {
  void* sp;
};
extern "C" void emu_switch(void** from, void* to);
asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
inline void switch_context(Context& from, Context& to) { emu_switch(&from.sp, to.sp); }
inline void make_context(Context& c, char* stack, void (*run)()) {
  void** top = (void**)(stack + STACK_BYTES - 64);
  *--top = nullptr;  // the frame `run` would return to
  *--top = (void*)run;
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  c.sp = top;
}
#else
struct Context {
  ucontext_t u;
};
inline void switch_context(Context& from, Context& to) { swapcontext(&from.u, &to.u); }
inline void make_context(Context& c, char* stack, void (*run)()) {
  getcontext(&c.u);
  c.u.uc_stack.ss_sp = stack;
  c.u.uc_stack.ss_size = STACK_BYTES;
  c.u.uc_link = nullptr;
  makecontext(&c.u, run, 0);
}
#endif

// ---- state

enum Status { READY, AT_BARRIER, IN_WARP, DONE };
enum Op { NONE, BALLOT, SHUFFLE_XOR, SHUFFLE, MMA, LDMATRIX, SYNCWARP };

struct Copy {
  u_char* to;
  const u_char* from;
  bool valid;
  int group;
};

struct Fiber {
  Context context;
  char* stack;
  Status status;
  emu_dim index;
  int id;
  const void* site;
  int group;
  std::vector<Copy> copies;
  uint32_t warp_epoch;
};

struct Warp {
  int arrived;
  Op op;
  const void* site;
  uint32_t in[WARP][8];
  uint64_t address[WARP];
  uint32_t out[WARP][4];
};

struct Record {  // of one byte: last writer, two last readers
  uint64_t write, read[2];
  const void* write_at;
  const void* read_at[2];
};

struct Region {
  uintptr_t begin, end;
  std::vector<Record> records;
};

struct Guarded {  // pages between untouchable ones
  char* base;
  size_t bytes;
};

struct Launch {
  Entry entry;
  void** arguments;
  emu_dim block, grid, block_index;
  int threads, order, late_copies, races;
  uint64_t random;
  Context main;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<char*> free_stacks, all_stacks;
  std::vector<int> schedule;
  Fiber* self;
  int done, at_barrier;
  const void* barrier_site;
  uint32_t block_epoch;
  char* shared;
  size_t shared_bytes;
  char* static_shared;
  size_t static_used;
  std::vector<std::pair<int, size_t>> static_sites;
  std::vector<Region> regions;
  std::vector<Guarded> guarded;
  std::vector<Guarded> pool;
  bool failed;
  char message[512];
  const void* race[2];
  sigjmp_buf escape;
  volatile sig_atomic_t running;
};

// One a host thread; reached through a plain pointer, because kernels ask for it at every step.
thread_local Launch* launch_of_thread __attribute__((tls_model("initial-exec"))) = nullptr;
#define L (*launch_of_thread)

struct Owner {
  Launch* launch = new Launch();
  ~Owner() { delete launch; }
};

void fail(const char* format, ...) {
  if (L.failed) return;
  L.failed = true;
  va_list list;
  va_start(list, format);
  vsnprintf(L.message, sizeof L.message, format, list);
  va_end(list);
}

[[noreturn]] void leave_for_good() {
  Fiber* f = L.self;
  switch_context(f->context, L.main);
  abort();  // a failed launch resumes nobody
}

void yield() {
  Fiber* f = L.self;
  switch_context(f->context, L.main);
  if (L.failed) leave_for_good();
}

// ---- races

inline uint64_t stamp(const Fiber* f) {
  const emu_dim& b = L.block_index;
  const uint64_t block = b.x + (uint64_t)L.grid.x * (b.y + (uint64_t)L.grid.y * b.z);
  return ((block + 1) << 44) | ((uint64_t)f->id << 33) | ((uint64_t)(L.block_epoch & 0xffff) << 17) | (f->warp_epoch & 0x1ffff);
}

inline bool ordered(uint64_t before, uint64_t now) {
  if (!before || before >> 33 == now >> 33) return true;  // nobody, or the same thread
  if (before >> 44 != now >> 44) return false;            // another block
  if ((before >> 17 & 0xffff) != (now >> 17 & 0xffff)) return true;
  const bool same_warp = (before >> 33 & 0x7ff) / WARP == (now >> 33 & 0x7ff) / WARP;
  return same_warp && (before & 0x1ffff) != (now & 0x1ffff);
}

void touch(const void* address, size_t bytes, bool is_write, const void* at) {
  if (!L.races || !L.self || L.failed) return;
  const uintptr_t p = (uintptr_t)address;
  for (Region& region : L.regions) {
    if (p < region.begin || p >= region.end) continue;
    const uint64_t now = stamp(L.self);
    for (size_t i = p - region.begin; i < p - region.begin + bytes && i < region.records.size(); ++i) {
      Record& r = region.records[i];
      const void* other = nullptr;
      if (!ordered(r.write, now)) other = r.write_at;
      if (is_write)
        for (int k = 0; k < 2; ++k)
          if (!ordered(r.read[k], now)) other = r.read_at[k];
      if (other) {
        L.race[0] = at, L.race[1] = other;
        fail("race on byte %zu of an array of %zu bytes", i, region.records.size());
        return;
      }
      if (is_write) {
        r.write = now, r.write_at = at;
      } else if (r.read[0] >> 33 == now >> 33 || ordered(r.read[0], now)) {
        r.read[0] = now, r.read_at[0] = at;
      } else {
        r.read[1] = now, r.read_at[1] = at;
      }
    }
    return;
  }
}

void add_region(const void* begin, size_t bytes) {
  if (L.races && bytes) L.regions.push_back({(uintptr_t)begin, (uintptr_t)begin + bytes, std::vector<Record>(bytes)});
}

// ---- meeting points

Warp& meet(Op op, const void* site, uint32_t mask) {
  Fiber* f = L.self;
  Warp& w = L.warps[f->id / WARP];
  if (mask != 0xffffffffu) fail("a warp operation with mask %08x: only whole warps meet here", mask), leave_for_good();
  if (w.arrived && (w.op != op || w.site != site))
    fail("threads of warp %d meet at two different operations", f->id / WARP), leave_for_good();
  w.op = op, w.site = site;
  return w;
}

// True for the last to arrive, who does the work; the others return after it is done.
bool last_to_arrive(Warp& w) {
  if (++w.arrived == WARP) return true;
  L.self->status = IN_WARP;
  yield();
  return false;
}

void release(Warp& w) {
  w.arrived = 0;
  const int first = L.self->id / WARP * WARP;
  for (int lane = 0; lane < WARP; ++lane) L.fibers[first + lane].status = READY;
}

void land(const Copy& c) {
  touch(c.to, 16, true, (const void*)c.from);
  if (c.valid)
    memcpy(c.to, c.from, 16);
  else
    memset(c.to, 0, 16);
}

void run_fiber() {
  L.entry(L.arguments);
  Fiber* f = L.self;
  if (!f->copies.empty() && !L.failed) fail("thread %d leaves with copies under way", f->id);
  f->status = DONE;
  ++L.done;
  switch_context(f->context, L.main);
  abort();
}

uint64_t draw() {
  L.random ^= L.random << 13, L.random ^= L.random >> 7, L.random ^= L.random << 17;
  return L.random;
}

void make_schedule() {
  for (int i = 0; i < L.threads; ++i) L.schedule[i] = L.order == 1 ? L.threads - 1 - i : i;
  if (L.order == 2)
    for (int i = L.threads - 1; i > 0; --i) std::swap(L.schedule[i], L.schedule[(draw() >> 32) * (i + 1) >> 32]);
}

char* take_stack() {
  if (L.free_stacks.empty()) {
    void* p = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    L.all_stacks.push_back((char*)p);
    return (char*)p;
  }
  char* stack = L.free_stacks.back();
  L.free_stacks.pop_back();
  return stack;
}

bool pass_barrier() {
  if (!L.at_barrier) return false;
  if (L.at_barrier + L.done != L.threads) return false;
  if (L.done) return fail("%d threads wait at a barrier that %d have left behind", L.at_barrier, L.done), false;
  for (Fiber& f : L.fibers)
    if (f.site != L.barrier_site) return fail("threads of a block wait at two different barriers"), false;
  for (Fiber& f : L.fibers) f.status = READY;
  L.at_barrier = 0;
  ++L.block_epoch;
  return true;
}

void run_block() {
  memset(L.shared, 0xCD, L.shared_bytes);
  memset(L.static_shared, 0xCD, L.static_used ? L.static_used : MAX_STATIC);
  L.static_used = 0, L.static_sites.clear();
  L.done = L.at_barrier = 0;
  L.block_epoch = 0;
  for (Warp& w : L.warps) w.arrived = 0;
  for (int i = 0; i < L.threads; ++i) {
    Fiber& f = L.fibers[i];
    f.id = i;
    f.index = {i % L.block.x, i / L.block.x % L.block.y, i / L.block.x / L.block.y};
    f.status = READY, f.stack = nullptr, f.group = 0, f.warp_epoch = 0;
    f.copies.clear();
  }
  make_schedule();
  while (L.done < L.threads && !L.failed) {
    if (L.order == 2) make_schedule();
    bool moved = false;
    for (int i : L.schedule) {
      Fiber& f = L.fibers[i];
      if (f.status != READY) continue;
      moved = true;
      if (!f.stack) {
        f.stack = take_stack();
        if (!f.stack) return fail("no memory for the stacks of a block");
        make_context(f.context, f.stack, run_fiber);
      }
      L.self = &f;
      switch_context(L.main, f.context);
      L.self = nullptr;
      if (L.failed) return;
      if (f.status == DONE) L.free_stacks.push_back(f.stack), f.stack = nullptr;
    }
    if (!moved && !pass_barrier() && !L.failed && L.done < L.threads) fail("deadlock: some threads wait for others that do not come");
  }
}

// ---- memory

Guarded take_pages(size_t bytes) {
  const size_t pages = std::max<size_t>(1, (bytes + PAGE - 1) / PAGE) * PAGE;
  for (size_t i = 0; i < L.pool.size(); ++i)
    if (L.pool[i].bytes == pages) {
      Guarded g = L.pool[i];
      L.pool.erase(L.pool.begin() + i);
      return g;
    }
  char* base = (char*)mmap(nullptr, pages + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return {nullptr, 0};
  mprotect(base + GUARD, pages, PROT_READ | PROT_WRITE);
  return {base + GUARD, pages};
}

void give_back(Guarded g) {
  mprotect(g.base, g.bytes, PROT_READ | PROT_WRITE);
  if (L.pool.size() < 64)
    L.pool.push_back(g);
  else
    munmap(g.base - GUARD, g.bytes + 2 * GUARD);
}

struct sigaction previous;

void on_fault(int number, siginfo_t* info, void* context) {
  if (L.running) {
    L.running = 0;
    siglongjmp(L.escape, 1);
  }
  sigaction(number, &previous, nullptr);  // not ours: let it happen again
  (void)info, (void)context;
}

void catch_faults() {
  static thread_local char* stack = nullptr;
  if (stack) return;
  stack = (char*)malloc(SIGSTKSZ * 4);
  stack_t s = {stack, 0, (size_t)SIGSTKSZ * 4};
  sigaltstack(&s, nullptr);
  static bool installed = false;
  if (__atomic_exchange_n(&installed, true, __ATOMIC_SEQ_CST)) return;
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, &previous);
}

}  // namespace

// ---- what kernels call

extern "C" {

const emu_dim* emu_thread_index() { return &L.self->index; }
const emu_dim* emu_block_index() { return &L.block_index; }
const emu_dim* emu_block_size() { return &L.block; }
const emu_dim* emu_grid_size() { return &L.grid; }
emu_u8* emu_dynamic_shared() { return (emu_u8*)L.shared; }

void* emu_static_shared(emu_u64 bytes, int site) {
  for (auto& [known, offset] : L.static_sites)
    if (known == site) return L.static_shared + offset;
  const size_t offset = L.static_used;
  L.static_used += (bytes + 127) / 128 * 128;
  if (L.static_used > MAX_STATIC) fail("more than 48 KB of static shared memory"), leave_for_good();
  L.static_sites.push_back({site, offset});
  return L.static_shared + offset;
}

void emu_syncthreads() {
  Fiber* f = L.self;
  f->site = __builtin_return_address(0);
  L.barrier_site = f->site;
  ++L.at_barrier;
  f->status = AT_BARRIER;
  yield();
}

void emu_syncwarp() {
  Warp& w = meet(SYNCWARP, __builtin_return_address(0), 0xffffffffu);
  if (last_to_arrive(w)) release(w);
  ++L.self->warp_epoch;
}

emu_u32 emu_ballot(emu_u32 mask, int predicate) {
  const int lane = L.self->id % WARP;
  Warp& w = meet(BALLOT, __builtin_return_address(0), mask);
  w.in[lane][0] = predicate != 0;
  if (last_to_arrive(w)) {
    uint32_t word = 0;
    for (int i = 0; i < WARP; ++i) word |= w.in[i][0] << i;
    for (int i = 0; i < WARP; ++i) w.out[i][0] = word;
    release(w);
  }
  return w.out[lane][0];
}

static emu_u32 shuffle(Op op, const void* site, emu_u32 mask, emu_u32 value, int from) {
  const int lane = L.self->id % WARP;
  Warp& w = meet(op, site, mask);
  w.in[lane][0] = value, w.in[lane][1] = from;
  if (last_to_arrive(w)) {
    for (int i = 0; i < WARP; ++i) w.out[i][0] = w.in[w.in[i][1] % WARP][0];
    release(w);
  }
  return w.out[lane][0];
}

emu_u32 emu_shuffle_xor(emu_u32 mask, emu_u32 value, int lanes) {
  return shuffle(SHUFFLE_XOR, __builtin_return_address(0), mask, value, (L.self->id % WARP) ^ lanes);
}

emu_u32 emu_shuffle(emu_u32 mask, emu_u32 value, int lane) {
  return shuffle(SHUFFLE, __builtin_return_address(0), mask, value, lane);
}

// The arithmetic of emu_mma_u8 on the fragments of a warp.
#if defined(__x86_64__)
__attribute__((target_clones("avx2", "default")))
#endif
static void multiply_tile(const uint32_t (&in)[WARP][8], uint32_t (&out)[WARP][4]) {
  int16_t left[16][32], right[8][32];
  for (int i = 0; i < WARP; ++i) {
    const int group = i / 4, member = i % 4;
    for (int byte = 0; byte < 4; ++byte) {
      const int at = 4 * member + byte;
      left[group][at] = in[i][0] >> (8 * byte) & 255, left[group + 8][at] = in[i][1] >> (8 * byte) & 255;
      left[group][at + 16] = in[i][2] >> (8 * byte) & 255, left[group + 8][at + 16] = in[i][3] >> (8 * byte) & 255;
      right[group][at] = in[i][4] >> (8 * byte) & 255, right[group][at + 16] = in[i][5] >> (8 * byte) & 255;
    }
  }
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 8; ++n) {
      int32_t sum = 0;
      for (int k = 0; k < 32; ++k) sum += (int32_t)left[m][k] * right[n][k];
      out[m % 8 * 4 + n / 2][m / 8 * 2 + n % 2] = sum;
    }
}

// PTX ISA, "Matrix fragments for mma.m16n8k32": lane = 4 group + member.
void emu_mma_u8(emu_u32* d, const emu_u32* a, emu_u32 b0, emu_u32 b1) {
  const int lane = L.self->id % WARP;
  Warp& w = meet(MMA, __builtin_return_address(0), 0xffffffffu);
  for (int i = 0; i < 4; ++i) w.in[lane][i] = a[i];
  w.in[lane][4] = b0, w.in[lane][5] = b1;
  if (last_to_arrive(w)) {
    multiply_tile(w.in, w.out);
    release(w);
  }
  for (int i = 0; i < 4; ++i) d[i] += w.out[lane][i];
}

// PTX ISA, "ldmatrix": rows of matrix i come from lanes 8 i .. 8 i + 7; lane l receives bytes 4 (l % 4).. of row l / 4.
void emu_ldmatrix_x4(emu_u32* d, emu_u64 row) {
  const int lane = L.self->id % WARP;
  if (row % 16) fail("ldmatrix from an address that is no multiple of 16"), leave_for_good();
  touch((const void*)row, 16, false, __builtin_return_address(0));
  Warp& w = meet(LDMATRIX, __builtin_return_address(0), 0xffffffffu);
  w.address[lane] = row;
  if (last_to_arrive(w)) {
    for (int i = 0; i < WARP; ++i)
      for (int m = 0; m < 4; ++m) memcpy(&w.out[i][m], (const u_char*)w.address[8 * m + i / 4] + 4 * (i % 4), 4);
    release(w);
  }
  for (int i = 0; i < 4; ++i) d[i] = w.out[lane][i];
}

void emu_cp_async_16(emu_u64 to, const void* from, bool valid) {
  if (to % 16 || (valid && (uintptr_t)from % 16)) fail("cp.async of 16 bytes at an address that is no multiple of 16"), leave_for_good();
  Fiber* f = L.self;
  Copy c = {(u_char*)to, (const u_char*)from, valid, f->group};
  const void* at = __builtin_return_address(0);
  if (valid) touch(from, 16, false, at);
  touch((void*)to, 16, true, at);
  f->copies.push_back(c);
  if (!L.late_copies) land(c);
}

void emu_cp_async_commit() { ++L.self->group; }

void emu_cp_async_wait(int pending) {
  Fiber* f = L.self;
  size_t kept = 0;
  for (Copy& c : f->copies) {
    if (c.group >= f->group - pending) {
      f->copies[kept++] = c;
      continue;
    }
    touch(c.to, 16, true, __builtin_return_address(0));  // written by now, not when it was issued
    if (L.late_copies) land(c);
  }
  f->copies.resize(kept);
}

// ---- what Python calls

// arguments: per parameter a pointer to its bytes, their number, and 0 = scalar, 1 = array, 2 = constant array. A null array
// has no bytes and a null pointer. `end` puts each array at the end of its pages, else at the beginning.
// Returns 0, or 1 with a message; race[0], race[1] are then code addresses if it was a race.
int emu_launch(Entry entry, int n_arguments, void** data, const emu_u64* bytes, const int* kinds, emu_dim grid, emu_dim block,
               emu_u64 shared_bytes, int order, int late_copies, int races, int end, char* message, const void** race) {
  static thread_local Owner owner;
  launch_of_thread = owner.launch;
  catch_faults();
  L.entry = entry, L.grid = grid, L.block = block, L.order = order, L.late_copies = late_copies, L.races = races;
  L.threads = block.x * block.y * block.z;
  L.random = 0x9E3779B97F4A7C15ull;
  L.failed = false, L.message[0] = 0, L.race[0] = L.race[1] = nullptr;
  L.fibers.resize(L.threads), L.warps.resize((L.threads + WARP - 1) / WARP), L.schedule.resize(L.threads);
  L.free_stacks = L.all_stacks;
  L.regions.clear(), L.guarded.clear();
  if (!L.static_shared) L.static_shared = (char*)aligned_alloc(128, MAX_STATIC);
  L.static_used = 0;
  if (L.threads % WARP) fail("a block of %d threads is no whole number of warps", L.threads);

  std::vector<void*> values(n_arguments);
  std::vector<void*> pointers(n_arguments);
  std::vector<Guarded> pages(n_arguments, Guarded{nullptr, 0});
  for (int i = 0; i < n_arguments; ++i) {
    if (kinds[i] == 0) {
      values[i] = data[i];
      continue;
    }
    values[i] = &pointers[i];
    pointers[i] = nullptr;
    if (!data[i]) continue;
    Guarded g = pages[i] = take_pages(bytes[i] + 16);
    if (!g.base) return snprintf(message, 512, "no memory for an argument"), 1;
    memset(g.base, 0xA5, g.bytes);
    pointers[i] = end ? g.base + (g.bytes - bytes[i]) / 16 * 16 : g.base;
    memcpy(pointers[i], data[i], bytes[i]);
    if (kinds[i] == 2) mprotect(g.base, g.bytes, PROT_READ);
    add_region(pointers[i], bytes[i]);
  }
  Guarded shared = take_pages(shared_bytes);
  L.shared_bytes = shared_bytes;
  L.shared = shared.base + (shared.bytes - shared_bytes) / 128 * 128;
  L.arguments = values.data();
  const size_t n_global = L.regions.size();

  if (sigsetjmp(L.escape, 1)) {
    const emu_dim& b = L.block_index;
    L.failed = false;
    fail("block (%u, %u, %u) touches memory outside its arguments, or writes to a constant one", b.x, b.y, b.z);
    L.self = nullptr;
  } else if (!L.failed) {
    L.running = 1;
    for (emu_u32 z = 0; z < grid.z && !L.failed; ++z)
      for (emu_u32 y = 0; y < grid.y && !L.failed; ++y)
        for (emu_u32 x = 0; x < grid.x && !L.failed; ++x) {
          L.block_index = {x, y, z};
          L.regions.resize(n_global);
          add_region(L.shared, L.shared_bytes);
          add_region(L.static_shared, MAX_STATIC);
          run_block();
        }
  }
  L.running = 0;
  L.self = nullptr;

  for (int i = 0; i < n_arguments; ++i) {
    if (!pages[i].base) continue;
    const u_char *begin = (u_char*)pages[i].base, *stop = begin + pages[i].bytes, *first = (u_char*)pointers[i];
    for (const u_char* p = begin; p < stop; ++p) {
      if (p == first) p += bytes[i];
      if (p < stop && *p != 0xA5) {
        fail("argument %d was written outside its bounds", i);
        break;
      }
    }
    if (kinds[i] == 1) memcpy(data[i], pointers[i], bytes[i]);
    give_back(pages[i]);
  }
  give_back(shared);
  memcpy(message, L.message, sizeof L.message);
  race[0] = L.race[0], race[1] = L.race[1];
  return L.failed;
}

// ---- what g++ announces in a race build

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define ACCESS(size)                                                                                        \
  void __tsan_read##size(void* p) { touch(p, size, false, __builtin_return_address(0)); }                   \
  void __tsan_write##size(void* p) { touch(p, size, true, __builtin_return_address(0)); }                   \
  void __tsan_unaligned_read##size(void* p) { touch(p, size, false, __builtin_return_address(0)); }         \
  void __tsan_unaligned_write##size(void* p) { touch(p, size, true, __builtin_return_address(0)); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void* p, unsigned long size) { touch(p, size, false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, unsigned long size) { touch(p, size, true, __builtin_return_address(0)); }
}
