// Four words as bytes of limb planes.
#pragma once
#include "ring.cuh"

namespace limb {

// 4x4 bytes turned: word i of `column` holds byte i of each of the four.
DEVICE void turn(u32 (&column)[4], u32 a, u32 b, u32 c, u32 d) {
  const u32 ab = __byte_perm(a, b, 0x5140), cd = __byte_perm(c, d, 0x5140);
  const u32 ab_high = __byte_perm(a, b, 0x7362), cd_high = __byte_perm(c, d, 0x7362);
  column[0] = __byte_perm(ab, cd, 0x5410), column[1] = __byte_perm(ab, cd, 0x7632);
  column[2] = __byte_perm(ab_high, cd_high, 0x5410), column[3] = __byte_perm(ab_high, cd_high, 0x7632);
}

// Bytes `at` .. `at` + 3 of each of the first `limbs` planes.
DEVICE void store4(u8* planes, i64 plane, i64 at, const u64 (&v)[4], int limbs) {
  u32 column[8];
  turn(*(u32(*)[4])column, (u32)v[0], (u32)v[1], (u32)v[2], (u32)v[3]);
  turn(*(u32(*)[4])(column + 4), (u32)(v[0] >> 32), (u32)(v[1] >> 32), (u32)(v[2] >> 32), (u32)(v[3] >> 32));
#pragma unroll
  for (int l = 0; l < 8; ++l)
    if (l < limbs) *(u32*)(planes + l * plane + at) = column[l];
}

}  // namespace limb
