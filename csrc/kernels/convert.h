// Between the element types of tensors and the type that arithmetic is done in.
#pragma once
#include "../math/lanes.h"
#include "dtypes.h"
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace dgm {

DGM_HD float to_float(bf16 x) { return bits_as<float>((uint32_t)x.bits << 16); }

// To nearest, ties to even.
DGM_HD bf16 to_bf16(float x) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  const uint32_t b = bits_as<uint32_t>(x);
  const uint32_t rounded = (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
  return {(uint16_t)(x != x ? 0x7fc0u : rounded)};
#endif
}

DGM_HD float to_float(f16 x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  const uint32_t sign = (uint32_t)(x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
  // as a float with the exponent 112 too small, then scaled; infinities and NaNs get the exponent that is left
  const float scaled = bits_as<float>(magnitude << 13) * 0x1p112f;
  const uint32_t bits = magnitude >= 0x7c00u ? (magnitude << 13) | 0x7f800000u : bits_as<uint32_t>(scaled);
  return bits_as<float>(sign | bits);
#endif
}

// To nearest, ties to even.
DGM_HD f16 to_f16(float x) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(x))};
#else
  const uint32_t b = bits_as<uint32_t>(x), sign = (b >> 16) & 0x8000u, magnitude = b & 0x7fffffffu;
  // below the smallest normal: adding 0.5 leaves the rounded fraction in the low bits
  const uint32_t tiny = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t half = magnitude < 0x38800000u ? tiny : normal;
  half = half > 0x7c00u ? 0x7c00u : half;
  half = magnitude >= 0x47800000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return {(uint16_t)(sign | half)};
#endif
}

// An element as a number, and back; integers may be elements too.
template <class T>
DGM_HD T in_compute(T x) {
  return x;
}
DGM_HD float in_compute(bf16 x) { return to_float(x); }
DGM_HD float in_compute(f16 x) { return to_float(x); }

DGM_HD void put(double& element, double x) { element = x; }
DGM_HD void put(float& element, float x) { element = x; }
DGM_HD void put(bf16& element, float x) { element = to_bf16(x); }
DGM_HD void put(f16& element, float x) { element = to_f16(x); }

}  // namespace dgm
