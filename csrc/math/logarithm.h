// ln x without libm in fp32: by a polynomial that vectorizes. Constants and errors: derive_coefficients.py.
#pragma once
#include "exponential.h"

namespace dgm {

// ln x within 1 ulp or 6e-8, whichever is more, for normal x > 0; inf and NaN stay.
DGM_HD float log_of(float x) {
  const int32_t octaves = (bits_as<int32_t>(x) - 0x3f3504f4) >> 23;  // x = m 2^octaves, sqrt(1/2) <= m < sqrt(2)
  const float n = (float)octaves, f = bits_as<float>(bits_as<int32_t>(x) - (int32_t)((uint32_t)octaves << 23)) - 1.0f;
  float p = -0x1.325ab0p-4f;
  p = multiply_add(p, f, 0x1.06b520p-3f);
  p = multiply_add(p, f, -0x1.0fa384p-3f);
  p = multiply_add(p, f, 0x1.22b8bep-3f);
  p = multiply_add(p, f, -0x1.5422b0p-3f);
  p = multiply_add(p, f, 0x1.99a016p-3f);
  p = multiply_add(p, f, -0x1.000432p-2f);
  p = multiply_add(p, f, 0x1.555558p-2f);
  p = multiply_add(p, f, -0x1.fffff8p-2f);
  // n ln 2 in two pieces, the first of them exact
  const float small = multiply_add(f * f, p, n * 0x1.7f7d1cp-20f);
  const float ln = multiply_add(n, 0x1.62e400p-1f, f + small);
  return x < 3.4e38f ? ln : x;
}

DGM_HD double log_of(double x) { return __builtin_log(x); }

// ln(1 + x) for x >= 0, without losing small x.
DGM_HD float log1p_of(float x) {
  const float y = 1.0f + x;
  return log_of(y) + (x - (y - 1.0f)) / y;  // what rounding took from 1 + x
}

DGM_HD double log1p_of(double x) { return __builtin_log1p(x); }

}  // namespace dgm
