// e^x, e^x - 1 and e^x - 1 - x, without libm: in fp32 by polynomials that vectorize, for CPU and GPU. Constants and
// errors: derive_coefficients.py. The names take the e^x that the caller has, so that one exponential serves all.
#pragma once
#include "lanes.h"

namespace dgm {

// a b + c, fused where there is an instruction for it: for formulas whose last bit may differ between machines.
DGM_HD float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__) || defined(__FMA__) || !defined(__x86_64__)
  return fused_multiply_add(a, b, c);
#else
  return a * b + c;
#endif
}

// x = n ln 2 + f: e^f, with n in the low bits of u
DGM_HD float exp_of_rest(float x, float& u) {
  u = multiply_add(x, 0x1.715476p+0f, 0x1.8p23f);  // rint(x / ln 2) in the low bits
  const float n = u - 0x1.8p23f;
  float f = multiply_add(n, -0x1.62e400p-1f, x);  // exact: 16 bits of ln 2
  f = multiply_add(n, -0x1.7f7d1cp-20f, f);
  float p = 0x1.9a6ad0p-13f;
  p = multiply_add(p, f, 0x1.6d4efep-10f);
  p = multiply_add(p, f, 0x1.1115c8p-7f);
  p = multiply_add(p, f, 0x1.5554e6p-5f);
  p = multiply_add(p, f, 0x1.555552p-3f);
  p = multiply_add(p, f, 0x1.000000p-1f);
  return 1.0f + multiply_add(f * f, p, f);
}

DGM_HD double multiply_add(double a, double b, double c) { return a * b + c; }

// e^x within 1 ulp; overflows to inf above 88.72, goes to 0 through subnormals below -87.3; NaN stays NaN.
DGM_HD float exp_of(float x) {
  x = x < -105.0f ? -105.0f : x;  // in this form a NaN passes
  x = x > 89.0f ? 89.0f : x;
  float u = 0.0f;
  const float e = exp_of_rest(x, u);
  // times 2^n in two exact steps: neither factor over- or underflows by itself
  const int32_t k = bits_as<int32_t>(u) - 0x4b400000, half = k >> 1;
  return e * bits_as<float>((half + 127) << 23) * bits_as<float>((k - half + 127) << 23);
}

// The same for x <= 0, 0 where it would be subnormal; in two thirds of the instructions.
DGM_HD float exp_of_negative(float x) {
  float u = 0.0f;
  const float e = exp_of_rest(x, u) * bits_as<float>((bits_as<uint32_t>(u) << 23) + 0x3f800000u);
  return x < -87.33f ? 0.0f : e;
}

DGM_HD double exp_of_negative(double x) { return __builtin_exp(x); }

DGM_HD double exp_of(double x) { return __builtin_exp(x); }

// e^x - 1 - x given e^x: x^2 times a polynomial for |x| < 1, where the difference would cancel. Relative error up to
// 6e-7 in fp32 where exp_x is the square of exp_of(x / 2), near |x| = 1; 4e-16 in fp64.
DGM_HD float exp_minus_1_minus_x(float x, float exp_x) {
  float p = 0x1.71cd16p-19f;
  p = multiply_add(p, x, 0x1.a901e6p-16f);
  p = multiply_add(p, x, 0x1.a03858p-13f);
  p = multiply_add(p, x, 0x1.6c0240p-10f);
  p = multiply_add(p, x, 0x1.1110c2p-7f);
  p = multiply_add(p, x, 0x1.555570p-5f);
  p = multiply_add(p, x, 0x1.555556p-3f);
  p = multiply_add(p, x, 0x1.000000p-1f);
  const float near = p * (x * x), far = (exp_x - 1.0f) - x;
  return x > -1.0f && x < 1.0f ? near : far;
}

DGM_HD double exp_minus_1_minus_x(double x, double exp_x) {
  if (!(x > -1.0 && x < 1.0)) return (exp_x - 1.0) - x;
  double p = 0x1.ae8e8f29409a5p-41;
  p = p * x + 0x1.996c22be87920p-37;
  p = p * x + 0x1.612ebc2ebec2ap-33;
  p = p * x + 0x1.1ee5b1253f682p-29;
  p = p * x + 0x1.ae64337c68746p-26;
  p = p * x + 0x1.27e505e3ddecbp-22;
  p = p * x + 0x1.71de3a8569ea1p-19;
  p = p * x + 0x1.a01a019226653p-16;
  p = p * x + 0x1.a01a019fdcec1p-13;
  p = p * x + 0x1.6c16c16c1f56ap-10;
  p = p * x + 0x1.1111111111323p-7;
  p = p * x + 0x1.555555555551dp-5;
  p = p * x + 0x1.5555555555554p-3;
  const double square = x * x;
  return square * (x * p) + 0.5 * square;
}

// e^x - 1 given e^x, without cancellation near 0.
template <class C>
DGM_HD C exp_minus_1(C x, C exp_x) {
  const C near = x + exp_minus_1_minus_x(x, exp_x);
  return x > (C)-1 && x < (C)1 ? near : exp_x - (C)1;
}

}  // namespace dgm
