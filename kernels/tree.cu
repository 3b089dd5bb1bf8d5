// One level of a comparison tree, bit-sliced: nodes that combine 2, 3 or 4 digits (lt, eq) into one by
// (lt, eq)_hi . (lt, eq)_lo = (lt_hi ^ eq_hi lt_lo, eq_hi eq_lo), each factor opened under a mask.
//
// Factors of a node of fan-in m: eq_{m-1} .. eq_0 (eq_0 only where eq is kept), then lt_{m-2} .. lt_0. Its terms are
// eq_{m-1} .. eq_{j+1} lt_j, and the product of all eq. Products of masks are ordered by size, then by factor numbers.
//
//   tree_finish  row 0: the sum of the lt terms, what joins lt_hi; row 1, where eq is kept: the last term; from opened factors
//                o, shares of masks and of their products: prod (o ^ m) = sum over subsets T of prod_{not T} o  prod_T m
//   tree_deal    the dealer's products of masks
//
// Shapes: opened, masks (nodes, F, lanes), dealt (nodes, P, lanes), out (1 or 2, nodes, lanes); F = 2 m - 1 or 2 m - 2.
// Layout: 64 elements a word. Launch: blocks = ceil(lanes / 256) x nodes, 256 threads. Largest: nodes lanes < 2^39.
// Fast because: everything of a node stays in registers; at fan-in 3 some 60 logical instructions for 64 elements.
#include "ring.cuh"

namespace tree {

DEVICE constexpr int count(int subset) { return subset ? 1 + count(subset & (subset - 1)) : 0; }

template <int M, bool EQ>
struct Node {
  static constexpr int n_eq = EQ ? M : M - 1, factors = n_eq + M - 1, terms = EQ ? M : M - 1;

  // Factors of term t as a bit set.
  static DEVICE_MEMBER constexpr int term(int t) { return t < M - 1 ? ((1 << (t + 1)) - 1) | 1 << (n_eq + t) : (1 << M) - 1; }

  static DEVICE_MEMBER constexpr bool is_product(int subset) {
    if (count(subset) < 2) return false;
    for (int t = 0; t < terms; ++t)
      if (!(subset & ~term(t))) return true;
    return false;
  }

  // Whether a comes before b: fewer factors, else the lowest factor in which they differ is a's.
  static DEVICE_MEMBER constexpr bool before(int a, int b) {
    if (count(a) != count(b)) return count(a) < count(b);
    const int differ = a ^ b;
    return a & differ & -differ;
  }

  static DEVICE_MEMBER constexpr int index(int subset) {
    int place = 0;
    for (int other = 1; other < 1 << factors; ++other) place += is_product(other) && before(other, subset);
    return place;
  }

  static DEVICE_MEMBER constexpr int products() {
    int total = 0;
    for (int subset = 1; subset < 1 << factors; ++subset) total += is_product(subset);
    return total;
  }
};

struct Inputs {
  u64 opened[7], masks[7];
  const u64* dealt;
  i64 lanes;
};

// Share of prod_{i in S} (o_i ^ m_i): the subsets T, T - 1, .. of S that are left to add.
template <int M, bool EQ, int S, int T>
DEVICE u64 product(const Inputs& in) {
  if constexpr (T == 0) {
    return 0;
  } else {
    u64 value;
    if constexpr (count(T) == 1) {
      constexpr int only = count(T - 1);
      value = in.masks[only];
    } else {
      constexpr int place = Node<M, EQ>::index(T);
      value = in.dealt[place * in.lanes];
    }
#pragma unroll
    for (int i = 0; i < 7; ++i)
      if ((S & ~T) >> i & 1) value &= in.opened[i];
    return value ^ product<M, EQ, S, (T - 1) & S>(in);
  }
}

// The term itself; at party 0 with the public product of the opened factors.
template <int M, bool EQ, int TERM>
DEVICE u64 whole(const Inputs& in, bool ones) {
  constexpr int S = Node<M, EQ>::term(TERM);
  u64 open = ones ? ~0ull : 0;
#pragma unroll
  for (int i = 0; i < 7; ++i)
    if (S >> i & 1) open &= in.opened[i];
  return open ^ product<M, EQ, S, S>(in);
}

template <int M, bool EQ>
DEVICE void finish(const u64* opened, const u64* masks, const u64* dealt, u64* out, i64 lanes, int nodes,
                   i64 node, i64 j, bool ones) {
  using N = Node<M, EQ>;
  Inputs in;
#pragma unroll
  for (int i = 0; i < 7; ++i) {
    in.opened[i] = i < N::factors ? opened[(node * N::factors + i) * lanes + j] : 0;
    in.masks[i] = i < N::factors ? masks[(node * N::factors + i) * lanes + j] : 0;
  }
  constexpr int products = N::products();
  in.dealt = dealt + node * products * lanes + j;
  in.lanes = lanes;
  u64 less = whole<M, EQ, 0>(in, ones);
  if constexpr (M > 2) less ^= whole<M, EQ, 1>(in, ones);
  if constexpr (M > 3) less ^= whole<M, EQ, 2>(in, ones);
  out[node * lanes + j] = less;
  if constexpr (EQ) out[(nodes + node) * lanes + j] = whole<M, EQ, M - 1>(in, ones);
}

template <int M, bool EQ, int SUBSET>
DEVICE void deal(const u64 (&m)[7], u64* out, i64 lanes) {
  if constexpr (SUBSET < 1 << Node<M, EQ>::factors) {
    if constexpr (Node<M, EQ>::is_product(SUBSET)) {
      constexpr int place = Node<M, EQ>::index(SUBSET);
      u64 value = ~0ull;
#pragma unroll
      for (int i = 0; i < 7; ++i)
        if (SUBSET >> i & 1) value &= m[i];
      out[place * lanes] = value;
    }
    deal<M, EQ, SUBSET + 1>(m, out, lanes);
  }
}

template <int M, bool EQ>
DEVICE void deal_node(const u64* masks, u64* out, i64 lanes, i64 node, i64 j) {
  using N = Node<M, EQ>;
  u64 m[7];
#pragma unroll
  for (int i = 0; i < 7; ++i) m[i] = i < N::factors ? masks[(node * N::factors + i) * lanes + j] : 0;
  constexpr int products = N::products();
  deal<M, EQ, 1>(m, out + node * products * lanes + j, lanes);
}

}  // namespace tree

extern "C" __global__ void __launch_bounds__(256)
    tree_finish(const u64* opened, const u64* masks, const u64* dealt, u64* out, i64 lanes, int nodes, int fan_in, int keep_eq,
                int ones) {
  const i64 j = (i64)(blockIdx.x / nodes) * THREADS + threadIdx.x, node = blockIdx.x % nodes;
  if (j >= lanes) return;
  switch (2 * fan_in + keep_eq) {
    case 4: tree::finish<2, false>(opened, masks, dealt, out, lanes, nodes, node, j, ones); break;
    case 5: tree::finish<2, true>(opened, masks, dealt, out, lanes, nodes, node, j, ones); break;
    case 6: tree::finish<3, false>(opened, masks, dealt, out, lanes, nodes, node, j, ones); break;
    case 7: tree::finish<3, true>(opened, masks, dealt, out, lanes, nodes, node, j, ones); break;
    case 8: tree::finish<4, false>(opened, masks, dealt, out, lanes, nodes, node, j, ones); break;
    case 9: tree::finish<4, true>(opened, masks, dealt, out, lanes, nodes, node, j, ones); break;
  }
}

extern "C" __global__ void __launch_bounds__(256)
    tree_deal(const u64* masks, u64* products, i64 lanes, int nodes, int fan_in, int keep_eq) {
  const i64 j = (i64)(blockIdx.x / nodes) * THREADS + threadIdx.x, node = blockIdx.x % nodes;
  if (j >= lanes) return;
  switch (2 * fan_in + keep_eq) {
    case 4: tree::deal_node<2, false>(masks, products, lanes, node, j); break;
    case 5: tree::deal_node<2, true>(masks, products, lanes, node, j); break;
    case 6: tree::deal_node<3, false>(masks, products, lanes, node, j); break;
    case 7: tree::deal_node<3, true>(masks, products, lanes, node, j); break;
    case 8: tree::deal_node<4, false>(masks, products, lanes, node, j); break;
    case 9: tree::deal_node<4, true>(masks, products, lanes, node, j); break;
  }
}
