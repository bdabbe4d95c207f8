// The Mills ratio of the normal distribution, M(a) = Q(a) / phi(a): what is left of a tail probability once its factor
// e^(-a^2 / 2), which underflows, is taken out. M(a) = sqrt(pi / 2) erfcx(a / sqrt(2)). Constants:
// derive_coefficients.py.
#pragma once
#include "exponential.h"

namespace dgm {

// M(a) for a >= 0, within 5 ulp: (a + 3) M(a) as a polynomial in (a - 3) / (a + 3).
DGM_HD float mills_ratio(float a) {
  const float r = 1.0f / (a + 3.0f), t = multiply_add(-6.0f, r, 1.0f);
  float p = 0x1.38230ep-14f;
  p = multiply_add(p, t, 0x1.2a4252p-12f);
  p = multiply_add(p, t, -0x1.06eca6p-11f);
  p = multiply_add(p, t, -0x1.4a959cp-9f);
  p = multiply_add(p, t, 0x1.46eae2p-9f);
  p = multiply_add(p, t, 0x1.1db048p-6f);
  p = multiply_add(p, t, -0x1.ad5570p-6f);
  p = multiply_add(p, t, -0x1.e53acap-4f);
  p = multiply_add(p, t, 0x1.2733c0p-1f);
  p = multiply_add(p, t, -0x1.46d638p+0f);
  p = multiply_add(p, t, 0x1.d3d9c8p+0f);
  return r * p;
}

// Relative error 3e-15 or less: e^(a^2 / 2) erfc for small a, else Laplace's continued fraction.
DGM_HD double mills_ratio(double a) {
  if (a < 4.0) return 0x1.40d931ff62706p+0 * __builtin_exp(0.5 * a * a) * __builtin_erfc(a * 0x1.6a09e667f3bcdp-1);
  double fraction = a;  // a + 1 / (a + 2 / (a + 3 / (a + ...)))
  for (int k = 32; k > 0; --k) fraction = a + k / fraction;
  return 1.0 / fraction;
}

}  // namespace dgm
