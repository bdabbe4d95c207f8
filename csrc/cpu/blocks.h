// Blocks of fp64 matrices in row-major order: products, reflections, and the reflections of a panel of rows.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include <stdint.h>

namespace dgm {
namespace DGM_LEVEL {

#if defined(__AVX512F__)
typedef double vd __attribute__((vector_size(64)));
static inline vd fused(vd a, vd b, vd c) { return (vd)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
static inline double total(vd x) {
  typedef long long places __attribute__((vector_size(64)));
  x += __builtin_shuffle(x, (places){4, 5, 6, 7, 0, 1, 2, 3});
  x += __builtin_shuffle(x, (places){2, 3, 0, 1, 6, 7, 4, 5});
  return x[0] + x[1];
}
constexpr int kTileRows = 8;  // 16 of the 32 registers hold sums
#elif defined(__AVX2__)
typedef double vd __attribute__((vector_size(32)));
static inline vd fused(vd a, vd b, vd c) { return (vd)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
static inline double total(vd x) { return (x[0] + x[2]) + (x[1] + x[3]); }
constexpr int kTileRows = 4;  // 8 of the 16
#else
typedef double vd __attribute__((vector_size(16)));
static inline vd fused(vd a, vd b, vd c) { return a * b + c; }
static inline double total(vd x) { return x[0] + x[1]; }
constexpr int kTileRows = 4;
#endif
typedef vd vd_unaligned __attribute__((aligned(8)));
constexpr int kWidth = sizeof(vd) / sizeof(double), kTileColumns = 2 * kWidth;

static inline vd load(const double* p) { return *(const vd_unaligned*)p; }
static inline void store(double* p, vd x) { *(vd_unaligned*)p = x; }
static inline vd repeat(double a) {
  const vd zero = {};
  return zero + a;
}

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Scratch of a thread.
class Scratch {
 public:
  explicit Scratch(int64_t n) : data((double*)__builtin_malloc(n * sizeof(double))) {}
  Scratch(const Scratch&) = delete;
  ~Scratch() { __builtin_free(data); }
  double* const data;
};

// c = sum_k a[i, k] b[k, j], or c less that; rows a multiple of kTileRows, columns one of kTileColumns. The element
// i, k of a lies at i * a_row + k * a_column, so that a may be a transpose.
template <bool subtract>
static void multiply(int64_t rows, int64_t columns, int64_t inner, const double* a, int64_t a_row, int64_t a_column,
                     const double* b, int64_t b_row, double* c, int64_t c_row) {
  for (int64_t j = 0; j < columns; j += kTileColumns) {
    for (int64_t i = 0; i < rows; i += kTileRows) {
      vd sums[kTileRows][2] = {};
      const double *from_a = a + i * a_row, *from_b = b + j;
      for (int64_t k = 0; k < inner; ++k, from_a += a_column, from_b += b_row) {
        const vd low = load(from_b), high = load(from_b + kWidth);
#pragma GCC unroll 8
        for (int r = 0; r < kTileRows; ++r) {
          const vd x = repeat(from_a[r * a_row]);
          sums[r][0] = fused(x, low, sums[r][0]);
          sums[r][1] = fused(x, high, sums[r][1]);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kTileRows; ++r) {
        double* const to = c + (i + r) * c_row + j;
        store(to, subtract ? load(to) - sums[r][0] : sums[r][0]);
        store(to + kWidth, subtract ? load(to + kWidth) - sums[r][1] : sums[r][1]);
      }
    }
  }
}

static inline double dot(const double* x, const double* y, int64_t n) {
  vd sums = {};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) sums = fused(load(x + i), load(y + i), sums);
  double sum = total(sums);
  for (; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// y += a x
static inline void add_scaled(double a, const double* x, double* y, int64_t n) {
  const vd factor = repeat(a);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, fused(factor, load(x + i), load(y + i)));
  for (; i < n; ++i) y[i] += a * x[i];
}

// The reflection I - tau v v^T that takes x to (first, 0, ...): v[0] = 1 comes in place of x. Returns tau.
static inline double reflection(double* x, int64_t n, double& first) {
  first = x[0];
  const double rest = n > 1 ? dot(x + 1, x + 1, n - 1) : 0.0;
  double tau = 0;
  if (rest > 0) {
    const double norm = __builtin_sqrt(first * first + rest), onto = first >= 0 ? -norm : norm;
    const double scale = 1 / (first - onto);
    for (int64_t i = 1; i < n; ++i) x[i] *= scale;
    tau = (onto - first) / onto;
    first = onto;
  }
  x[0] = 1;
  return tau;
}

}  // namespace DGM_LEVEL
}  // namespace dgm
