// A server's leaves: lt = T[y] and eq = T[y - 1] ^ T[y] for public digits y and this server's share T of a thermometer
// table; T[2^b - 1] = 0, and T[-1] is the lane `below` (ones at party 0, zeros at party 1).
//
// Shapes: tables (D, 2^b - 1, lanes), planes (D, b, lanes) low bit first, below (lanes); lt, eq (D, lanes). Layout: 64
// elements a word. Launch: blocks = ceil(lanes / 256) x D, 256 threads. Largest: b <= 6, D lanes < 2^39.
// Fast because: each table word is read once, in whole sectors; a multiplexer tree in registers selects for 64 elements.
#include "ring.cuh"

struct Leaf {
  u64 at, before;  // T[y], T[y - 1]
};

// Entries first .. first + 2^B - 1, chosen by the low B bits of y. `all` = 2^width - 1, the entry that is zero.
template <int B>
DEVICE Leaf choose(const u64* table, const u64 (&y)[6], u64 below, i64 lanes, int first, int all) {
  const Leaf low = choose<B - 1>(table, y, below, lanes, first, all);
  const Leaf high = choose<B - 1>(table, y, below, lanes, first + (1 << (B - 1)), all);
  const u64 bit = y[B - 1];
  return {low.at ^ (bit & (low.at ^ high.at)), low.before ^ (bit & (low.before ^ high.before))};
}

template <>
DEVICE_MEMBER Leaf choose<0>(const u64* table, const u64 (&)[6], u64 below, i64 lanes, int first, int all) {
  return {first < all ? table[first * lanes] : 0, first ? table[(first - 1) * lanes] : below};
}

extern "C" __global__ void __launch_bounds__(256)
    lookup(const u64* tables, const u64* planes, const u64* below, u64* lt, u64* eq, i64 lanes, int width, int digits) {
  const i64 j = (i64)(blockIdx.x / digits) * THREADS + threadIdx.x;
  const int d = blockIdx.x % digits, all = (1 << width) - 1;
  if (j >= lanes) return;
  const u64* table = tables + (i64)d * all * lanes + j;
  u64 y[6];
#pragma unroll
  for (int b = 0; b < 6; ++b) y[b] = b < width ? planes[((i64)d * width + b) * lanes + j] : 0;
  Leaf leaf = {0, 0};
  switch (width) {
    case 1: leaf = choose<1>(table, y, below[j], lanes, 0, all); break;
    case 2: leaf = choose<2>(table, y, below[j], lanes, 0, all); break;
    case 3: leaf = choose<3>(table, y, below[j], lanes, 0, all); break;
    case 4: leaf = choose<4>(table, y, below[j], lanes, 0, all); break;
    case 5: leaf = choose<5>(table, y, below[j], lanes, 0, all); break;
    case 6: leaf = choose<6>(table, y, below[j], lanes, 0, all); break;
  }
  lt[d * lanes + j] = leaf.at;
  eq[d * lanes + j] = leaf.at ^ leaf.before;
}
