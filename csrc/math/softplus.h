// The logistic function and its integral, stable for every x. Constants and errors: derive_coefficients.py.
#pragma once
#include "exponential.h"

namespace dgm {

// ln(1 + y) for y in [0, 1], within 1.6 ulp; NaN stays NaN.
DGM_HD float log1p_of_unit(float y) {
  float p = -0x1.af4bdep-9f;
  p = multiply_add(p, y, 0x1.491890p-6f);
  p = multiply_add(p, y, -0x1.d6b0f4p-5f);
  p = multiply_add(p, y, 0x1.b4ae20p-4f);
  p = multiply_add(p, y, -0x1.3a4360p-3f);
  p = multiply_add(p, y, 0x1.934b54p-3f);
  p = multiply_add(p, y, -0x1.ff23e6p-3f);
  p = multiply_add(p, y, 0x1.554dd0p-2f);
  p = multiply_add(p, y, -0x1.ffffd2p-2f);
  return multiply_add(y * y, p, y);
}

DGM_HD double log1p_of_unit(double y) { return __builtin_log1p(y); }

// e^-|x|
DGM_HD float exp_minus_abs(float x) { return exp_of_negative(-__builtin_fabsf(x)); }
DGM_HD double exp_minus_abs(double x) { return exp_of_negative(-__builtin_fabs(x)); }

// ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|): full relative accuracy on both sides, x itself where e^-x vanishes
template <class C>
DGM_HD C softplus(C x) {
  return (x > (C)0 ? x : (C)0) + log1p_of_unit(exp_minus_abs(x));
}

// 1 / (1 + e^-x), with full relative accuracy as it goes to 0
template <class C>
DGM_HD C sigmoid(C x) {
  const C y = exp_minus_abs(x);
  return (x < (C)0 ? y : (C)1) / ((C)1 + y);
}

}  // namespace dgm
