// The logistic sigmoid 1 / (1 + e^-x) and SiLU (swish), x sigmoid(x), without libm in fp32.
#pragma once
#include "exponential.h"

namespace dgm {

// 1 + e^-x, for users that multiply by x or check it: a NaN counts as some number. inf below x = -88.4, so that the
// sigmoid goes to 0 there; in between the relative error is 1e-7. exp_of costs 9 operations more.
DGM_HD float one_plus_exp_minus(float x) {
  // -x clamped to [-86, 89] as integers: GCC makes one instruction of each, and four of a comparison of floats
  const int32_t above = bits_as<int32_t>(-x), at_most = above < 0x42b20000 ? above : 0x42b20000;
  const uint32_t below = (uint32_t)at_most, at_least = below < 0xc2ac0000u ? below : 0xc2ac0000u;
  const float y = bits_as<float>(at_least);
  const float u = multiply_add(y, 0x1.715476p+0f, 0x1.8p23f);  // rint(y / ln 2) in the low bits
  const float f = multiply_add(u - 0x1.8p23f, -0x1.62e430p-1f, y);
  // e^f = (1 + f) + f^2 (E0 + E1 f + f^2 (E2 + E3 f + f^2 E4)): half as long a chain as Horner's
  const float f2 = f * f, low = multiply_add(0x1.55548ep-3f, f, 0x1.fffff8p-2f);
  const float high = multiply_add(0x1.68532cp-10f, f2, multiply_add(0x1.123bccp-7f, f, 0x1.555b96p-5f));
  const float p = multiply_add(f2, multiply_add(f2, high, low), 1.0f + f);
  return multiply_add(p, bits_as<float>((bits_as<uint32_t>(u) << 23) + 0x3f800000u), 1.0f);  // 2^128 is inf
}

DGM_HD double one_plus_exp_minus(double x) { return 1.0 + exp_of(-x); }

template <class C>
DGM_HD C silu(C x) {
  return x / one_plus_exp_minus(x);
}

// d/dx x s(x) = s (1 + x (1 - s))
template <class C>
DGM_HD C silu_gradient(C x) {
  const C s = (C)1 / one_plus_exp_minus(x);
  return s * multiply_add(x, (C)1 - s, (C)1);
}

}  // namespace dgm
