// Standard normals from Philox words: Box-Muller with polynomials of our own. This file defines the noise of dgmkern.
//
// Of a pair of words (x, a):
//   u = (x + 1/2) / 2^32 in (0, 1), r = sqrt(-2 ln u);
//   y = the low 30 bits of a, signed, / 2^30 in [-1/2, 1/2): an angle in a quarter arc; bit 31 negates the cosine and
//   bit 30 swaps sine and cosine, which makes 2^32 uniform angles of it;
//   z0, z1 = r cos(pi/2 y), r sin(pi/2 y), negated and swapped so.
// Only +, x, fma and sqrt, correctly rounded, signed conversion and integer operations: the same bits everywhere. No
// libm, no comparison before the last step. Errors (derive_coefficients.py): mean 0.5 ulp of z, at most 3.1, near z = 0
// and in the tails too; |z| <= 6.764.
#pragma once
#include "philox.h"

namespace dgm {

// sqrt(-4 ln u), the radius times sqrt(2): the sine and cosine below carry 1 / sqrt(2).
template <class L>
DGM_HD typename L::F radius_sqrt2(typename L::U x) {
  using F = typename L::F;
  using I = typename L::I;
  using U = typename L::U;
  // u 2^32 in the lower half, -(1 - u) 2^32 in the upper: precise at both ends of (0, 1)
  const F v = L::add(L::to_float((I)x), L::number(0.5f));
  // The octave of u: u = m 2^-octave. Negative v count as one octave with the top; subtracting 1 moves exact powers of
  // two down into the octave that they end.
  const U exponent = L::min(L::bits(v) - 1u, L::word32(0x4f000000u));
  const U scale = ~exponent & 0x7f800000u;  // as a float: brings v to [2, 4], or to [-2, 0) in the top octave
  const F octave = L::to_float((I)(scale - 0x30800000u));                                  // times 2^23
  const F f = L::fma(v, L::from_bits(scale), L::negate(L::min(octave, L::number(4.0f))));  // 4 (m - 1) in [-2, 0]
  F p = L::number(-0x1.6a0ec4p-16f);
  p = L::fma(p, f, L::number(-0x1.a3985ep-14f));
  p = L::fma(p, f, L::number(-0x1.354f76p-12f));
  p = L::fma(p, f, L::number(-0x1.722736p-13f));
  p = L::fma(p, f, L::number(-0x1.0df6b6p-10f));
  p = L::fma(p, f, L::number(0x1.f313e8p-9f));
  p = L::fma(p, f, L::number(-0x1.55a384p-6f));
  p = L::fma(p, f, L::number(0x1.fffec0p-4f));
  const F linear = L::fma(octave, L::number(0x1.62e430p-22f), L::negate(f));  // 4 ln 2 octaves - f
  return L::sqrt(L::fma(L::mul(f, f), p, linear));
}

template <class L>
DGM_HD void box_muller(typename L::U x, typename L::U a, typename L::F& z0, typename L::F& z1) {
  using F = typename L::F;
  using I = typename L::I;
  const F r = radius_sqrt2<L>(x);
  const F y = L::mul(L::to_float((I)(a << 2)), L::number(0x1p-32f));
  const F w = L::mul(y, y);
  F s = L::number(-0x1.aa72f6p-9f);  // sin(pi/2 y) / (sqrt(2) y) - 1
  s = L::fma(s, w, L::number(0x1.cd8e38p-5f));
  s = L::fma(s, w, L::number(-0x1.d3ba3ep-2f));
  s = L::fma(s, w, L::number(0x1.c5831ap-4f));
  F c = L::number(-0x1.d8dc7ep-7f);  // cos(pi/2 y) / sqrt(2) - 1
  c = L::fma(c, w, L::number(0x1.6f402cp-3f));
  c = L::fma(c, w, L::number(-0x1.bea566p-1f));
  c = L::fma(c, w, L::number(-0x1.2bec34p-2f));
  const F ry = L::mul(r, y), signed_r = L::from_bits(L::bits(r) ^ (a & 0x80000000u));
  const F sine = L::fma(ry, s, ry), cosine = L::fma(signed_r, c, signed_r);
  const auto swap = (I)(a << 1) < 0;
  z0 = L::select(swap, sine, cosine);
  z1 = L::select(swap, cosine, sine);
}

}  // namespace dgm
