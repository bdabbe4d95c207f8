// Lanes: what the maths in this folder is written over.
//
// A formula here is a template over a lane policy L: one float on the host's scalar path and on a GPU (ScalarLanes,
// below), a SIMD vector of them on the CPU (cpu/simd.h). Every operation is correctly rounded and never contracted, so
// that the same formula gives the same bits everywhere.
#pragma once
#include <stdint.h>

#if defined(__CUDACC__)
#define DGM_HD __host__ __device__ __forceinline__
#else
#define DGM_HD inline __attribute__((always_inline))
#endif

namespace dgm {

// A constant as an argument: a loop in a generic lambda that takes one is compiled for its value.
template <class T, T value>
struct Constant {
  DGM_HD constexpr operator T() const { return value; }
};
using Yes = Constant<bool, true>;
using No = Constant<bool, false>;

template <class To, class From>
DGM_HD To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

// To [-bound, bound]; a NaN stays one.
template <class C>
DGM_HD C clamped(C x, C bound) {
  const C low = x < -bound ? -bound : x;
  return low > bound ? bound : low;
}

// a b + c with one rounding. Without an FMA instruction: the product is exact in double; the sum is rounded to odd,
// so that rounding it once more, to float, rounds right.
DGM_HD float fused_multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#elif defined(__FMA__) || !defined(__x86_64__)
  return __builtin_fmaf(a, b, c);
#else
  const double p = (double)a * (double)b, cd = (double)c, s = p + cd;
  const double from_c = s - p;
  const double error = (p - (s - from_c)) + (cd - from_c);
  const int64_t bits = bits_as<int64_t>(s);
  const bool inexact_even = (error > 0.0 || error < 0.0) && !(bits & 1);
  const int64_t odd = bits + (((error > 0.0) == (s > 0.0)) ? 1 : -1);
  return (float)bits_as<double>(inexact_even ? odd : bits);
#endif
}

struct ScalarLanes {
  using F = float;     // a number
  using I = int32_t;   // an integer of its width
  using U = uint32_t;  // a 32-bit word
  using W = uint32_t;  // a word inside Philox

#if defined(__CUDA_ARCH__)
  static DGM_HD F add(F a, F b) { return __fadd_rn(a, b); }
  static DGM_HD F mul(F a, F b) { return __fmul_rn(a, b); }
  static DGM_HD F sqrt(F a) { return __fsqrt_rn(a); }
#else
  static DGM_HD F add(F a, F b) { return a + b; }
  static DGM_HD F mul(F a, F b) { return a * b; }
  static DGM_HD F sqrt(F a) { return __builtin_sqrtf(a); }
#endif
  static DGM_HD F negate(F a) { return -a; }
  static DGM_HD F min(F a, F b) { return a < b ? a : b; }
  static DGM_HD U min(U a, U b) { return a < b ? a : b; }
  static DGM_HD F fma(F a, F b, F c) { return fused_multiply_add(a, b, c); }
  static DGM_HD F number(float a) { return a; }
  static DGM_HD U word32(uint32_t a) { return a; }
  static DGM_HD W word(uint32_t a) { return a; }
  static DGM_HD void mulhilo(W a, uint32_t m, W& hi, W& lo) {
    const uint64_t p = (uint64_t)a * m;
    hi = (W)(p >> 32);
    lo = (W)p;
  }
  static DGM_HD F to_float(I a) { return (F)a; }
  static DGM_HD U bits(F a) { return bits_as<U>(a); }
  static DGM_HD F from_bits(U a) { return bits_as<F>(a); }
  static DGM_HD F select(bool condition, F a, F b) { return condition ? a : b; }
};

}  // namespace dgm
