// SIMD lanes for the instruction set that this translation unit is compiled for (DGM_LEVEL: avx512, avx2, baseline).
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../math/philox.h"

namespace dgm {
namespace DGM_LEVEL {

#if defined(__AVX512F__)

typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));
typedef uint64_t vw __attribute__((vector_size(64)));  // Philox words in the low halves of 64-bit lanes, junk above

struct SimdLanes {
  using F = vf;
  using I = vi;
  using U = vu;
  using W = vw;
  static constexpr int width = 16;

  static DGM_HD F add(F a, F b) { return a + b; }
  static DGM_HD F mul(F a, F b) { return a * b; }
  static DGM_HD F fma(F a, F b, F c) { return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
  static DGM_HD F sqrt(F a) { return (F)_mm512_sqrt_ps((__m512)a); }
  static DGM_HD F negate(F a) { return -a; }
  static DGM_HD F min(F a, F b) { return (F)_mm512_min_ps((__m512)a, (__m512)b); }
  static DGM_HD U min(U a, U b) { return (U)_mm512_min_epu32((__m512i)a, (__m512i)b); }
  static DGM_HD U word32(uint32_t a) { return (U)_mm512_set1_epi32((int)a); }
  static DGM_HD F number(float a) { return (F)_mm512_set1_ps(a); }
  static DGM_HD W word(uint32_t a) { return (W)_mm512_set1_epi64((int64_t)(uint64_t)a); }
  static DGM_HD F to_float(I a) { return (F)_mm512_cvtepi32_ps((__m512i)a); }
  static DGM_HD U bits(F a) { return (U)a; }
  static DGM_HD F from_bits(U a) { return (F)a; }
  static DGM_HD F select(I condition, F a, F b) { return condition ? a : b; }
  static DGM_HD void mulhilo(W a, uint32_t m, W& hi, W& lo) {
    lo = (W)_mm512_mul_epu32((__m512i)a, (__m512i)word(m));
    hi = lo >> 32;
  }
  static DGM_HD U merge(W a, W b) {  // low halves of a and b, interleaved
    return (U)_mm512_mask_moveldup_ps((__m512)a, 0xAAAA, (__m512)b);
  }
  // Philox words of tile indices first ... first + 15. Two halves of 8 counters; they are arranged so that
  // interleaving them puts tile index 4 i + j into 32-bit lane 4 j + i, which is what in_order() wants.
  static DGM_HD void words(uint64_t first, uint32_t k0, uint32_t k1, U& w0, U& w1, U& w2, U& w3) {
    const W order = {0, 8, 1, 9, 2, 10, 3, 11};
    W a0 = order + first, a1 = a0 >> 32, a2, a3;
    W b0 = order + (first + 4), b1 = b0 >> 32, b2, b3;
    philox_of_index<SimdLanes>(a0, a1, a2, a3, k0, k1);
    philox_of_index<SimdLanes>(b0, b1, b2, b3, k0, k1);
    w0 = merge(a0, b0);
    w1 = merge(a1, b1);
    w2 = merge(a2, b2);
    w3 = merge(a3, b3);
  }
  // in place: z0 ... z3 become the normals of the tile in order
  static DGM_HD void in_order(F& z0, F& z1, F& z2, F& z3) {
    const __m512 a = _mm512_unpacklo_ps((__m512)z0, (__m512)z1), b = _mm512_unpackhi_ps((__m512)z0, (__m512)z1);
    const __m512 c = _mm512_unpacklo_ps((__m512)z2, (__m512)z3), d = _mm512_unpackhi_ps((__m512)z2, (__m512)z3);
    const __m512d ad = (__m512d)a, bd = (__m512d)b, cd = (__m512d)c, dd = (__m512d)d;
    z0 = (F)_mm512_unpacklo_pd(ad, cd);
    z1 = (F)_mm512_unpackhi_pd(ad, cd);
    z2 = (F)_mm512_unpacklo_pd(bd, dd);
    z3 = (F)_mm512_unpackhi_pd(bd, dd);
  }
};

#elif defined(__AVX2__)

typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
typedef uint32_t vu __attribute__((vector_size(32)));
typedef uint64_t vw __attribute__((vector_size(32)));  // Philox words in the low halves of 64-bit lanes, junk above

struct SimdLanes {
  using F = vf;
  using I = vi;
  using U = vu;
  using W = vw;
  static constexpr int width = 8;

  static DGM_HD F add(F a, F b) { return a + b; }
  static DGM_HD F mul(F a, F b) { return a * b; }
  static DGM_HD F fma(F a, F b, F c) { return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
  static DGM_HD F sqrt(F a) { return (F)_mm256_sqrt_ps((__m256)a); }
  static DGM_HD F negate(F a) { return -a; }
  static DGM_HD F min(F a, F b) { return (F)_mm256_min_ps((__m256)a, (__m256)b); }
  static DGM_HD U min(U a, U b) { return (U)_mm256_min_epu32((__m256i)a, (__m256i)b); }
  static DGM_HD U word32(uint32_t a) { return (U)_mm256_set1_epi32((int)a); }
  static DGM_HD F number(float a) { return (F)_mm256_set1_ps(a); }
  static DGM_HD W word(uint32_t a) { return (W)_mm256_set1_epi64x((int64_t)(uint64_t)a); }
  static DGM_HD F to_float(I a) { return (F)_mm256_cvtepi32_ps((__m256i)a); }
  static DGM_HD U bits(F a) { return (U)a; }
  static DGM_HD F from_bits(U a) { return (F)a; }
  static DGM_HD F select(I condition, F a, F b) { return (F)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)condition); }
  static DGM_HD void mulhilo(W a, uint32_t m, W& hi, W& lo) {
    lo = (W)_mm256_mul_epu32((__m256i)a, (__m256i)word(m));
    hi = lo >> 32;
  }
  static DGM_HD U merge(W a, W b) { return (U)_mm256_blend_ps((__m256)a, _mm256_moveldup_ps((__m256)b), 0xAA); }
  // as above: 2 halves of 4 counters
  static DGM_HD void words(uint64_t first, uint32_t k0, uint32_t k1, U& w0, U& w1, U& w2, U& w3) {
    const W order = {0, 4, 1, 5};
    W a0 = order + first, a1 = a0 >> 32, a2, a3;
    W b0 = order + (first + 2), b1 = b0 >> 32, b2, b3;
    philox_of_index<SimdLanes>(a0, a1, a2, a3, k0, k1);
    philox_of_index<SimdLanes>(b0, b1, b2, b3, k0, k1);
    w0 = merge(a0, b0);
    w1 = merge(a1, b1);
    w2 = merge(a2, b2);
    w3 = merge(a3, b3);
  }
  // in place: z0 ... z3 become the normals of the tile in order
  static DGM_HD void in_order(F& z0, F& z1, F& z2, F& z3) {
    const __m256 a = _mm256_unpacklo_ps((__m256)z0, (__m256)z1), b = _mm256_unpackhi_ps((__m256)z0, (__m256)z1);
    const __m256 c = _mm256_unpacklo_ps((__m256)z2, (__m256)z3), d = _mm256_unpackhi_ps((__m256)z2, (__m256)z3);
    const __m256d ad = (__m256d)a, bd = (__m256d)b, cd = (__m256d)c, dd = (__m256d)d;
    z0 = (F)_mm256_unpacklo_pd(ad, cd);
    z1 = (F)_mm256_unpackhi_pd(ad, cd);
    z2 = (F)_mm256_unpacklo_pd(bd, dd);
    z3 = (F)_mm256_unpackhi_pd(bd, dd);
  }
};

#else

struct SimdLanes : ScalarLanes {
  static constexpr int width = 1;

  static DGM_HD void words(uint64_t first, uint32_t k0, uint32_t k1, U& w0, U& w1, U& w2, U& w3) {
    w0 = (U)first;
    w1 = (U)(first >> 32);
    philox_of_index<ScalarLanes>(w0, w1, w2, w3, k0, k1);
  }
  static DGM_HD void in_order(F&, F&, F&, F&) {}
};

#endif

}  // namespace DGM_LEVEL
}  // namespace dgm
