// Chunks: loops work on kChunk numbers at a time, in the compute type, small enough to stay in the first-level cache.
// read() and write() convert between a tensor's element type and the compute type and cost nothing where they agree.
#pragma once
#include "../kernels/convert.h"
#include "../kernels/unroll.h"
#include "simd.h"

namespace dgm {
namespace DGM_LEVEL {

constexpr int kChunk = 512;

// Fetch n elements while the noise of a chunk is being made, which leaves memory idle otherwise.
template <class T>
inline void prefetch(const T* x, int n) {
  for (const char *p = (const char*)x, *end = (const char*)(x + n); p < end; p += 64) __builtin_prefetch(p);
}

// n elements of x in the compute type: x itself, or buffer filled from it
inline const float* read(const float* x, int, float*) { return x; }
inline const double* read(const double* x, int, double*) { return x; }

inline const float* read(const bf16* __restrict x, int n, float* __restrict buffer) {
  for (int i = 0; i < n; ++i) buffer[i] = to_float(x[i]);
  return buffer;
}

inline const float* read(const f16* __restrict x, int n, float* __restrict buffer) {
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16)
    _mm512_storeu_ps(buffer + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(x + i))));
#elif defined(__F16C__)
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(buffer + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(x + i))));
#endif
  for (; i < n; ++i) buffer[i] = to_float(x[i]);
  return buffer;
}

// the same, always into buffer
inline void read_into(const float* __restrict x, int n, float* __restrict buffer) {
  for (int i = 0; i < n; ++i) buffer[i] = x[i];
}
inline void read_into(const double* __restrict x, int n, double* __restrict buffer) {
  for (int i = 0; i < n; ++i) buffer[i] = x[i];
}
inline void read_into(const bf16* x, int n, float* buffer) { read(x, n, buffer); }
inline void read_into(const f16* x, int n, float* buffer) { read(x, n, buffer); }

// where to put n results that are to end up in x: x itself, or buffer, for write() to convert
inline float* place(float* x, float*) { return x; }
inline double* place(double* x, double*) { return x; }
inline float* place(bf16*, float* buffer) { return buffer; }
inline float* place(f16*, float* buffer) { return buffer; }

inline void write(float*, int, const float*) {}
inline void write(double*, int, const double*) {}

inline void write(bf16* __restrict x, int n, const float* __restrict buffer) {
  for (int i = 0; i < n; ++i) x[i] = to_bf16(buffer[i]);
}

inline void write(f16* __restrict x, int n, const float* __restrict buffer) {
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16)
    _mm256_storeu_si256((__m256i*)(x + i), _mm512_maskz_cvtps_ph(0xFFFF, _mm512_loadu_ps(buffer + i),
                                                                 _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128((__m128i*)(x + i), _mm256_cvtps_ph(_mm256_loadu_ps(buffer + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; i < n; ++i) x[i] = to_f16(buffer[i]);
}

// the same where the results never lie in x itself
inline void write_from(float* __restrict x, int n, const float* __restrict results) { read_into(results, n, x); }
inline void write_from(double* __restrict x, int n, const double* __restrict results) { read_into(results, n, x); }
inline void write_from(bf16* x, int n, const float* results) { write(x, n, results); }
inline void write_from(f16* x, int n, const float* results) { write(x, n, results); }

}  // namespace DGM_LEVEL
}  // namespace dgm
