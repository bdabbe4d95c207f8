#include "blocks.h"
#include "linalg.h"
#include "singular_values.h"

namespace dgm {
namespace DGM_LEVEL {

constexpr int64_t kB = kMatrixBlock;
constexpr int64_t kStrip = 2 * kB;  // columns that are copied together: 1 MB of 2048 rows

static void reflect(Reflections& reflections, double* triangle) {
  double* const t = reflections.t;
  const int64_t count = reflections.count;
  for (int64_t i = 0; i < kB * kB; ++i) t[i] = triangle[i] = 0;
  for (int64_t i = 0; i < count; ++i) {
    double* const v = reflections.vectors.at(i, 0);
    const int64_t n = reflections.length - i;
    for (int64_t j = 0; j < i; ++j) {
      triangle[j * kB + i] = v[j];
      v[j] = 0;
    }
    const double tau = reflection(v + i, n, triangle[i * kB + i]);
    for (int64_t q = i + 1; q < count; ++q) {
      double* const x = reflections.vectors.at(q, i);
      add_scaled(-tau * dot(v + i, x, n), v + i, x, n);
    }
    double w[kB];
    for (int64_t j = 0; j < i; ++j) w[j] = -tau * dot(reflections.vectors.at(j, i), v + i, n);
    for (int64_t j = 0; j < i; ++j) t[j * kB + i] = dot(t + j * kB + j, w + j, i - j);
    t[i * kB + i] = tau;
  }
  for (int64_t k = 0; k < reflections.length; ++k)
    for (int64_t i = 0; i < count; ++i) reflections.columns[k * kB + i] = *reflections.vectors.at(i, k);
}

// A strip is copied: rows of 2048 numbers fall into the same few sets of the cache.
static void from_left(const Reflections& reflections, const Matrix& a, int64_t columns, const Range& blocks) {
  const int64_t n = reflections.length, count = reflections.count;
  const Scratch scratch(n * kStrip + 2 * kB * kStrip);
  double *const strip = scratch.data, *const w = strip + n * kStrip, *const x = w + kB * kStrip;
  const int64_t end = smaller(blocks.end * kB, columns);
  for (int64_t first = blocks.begin * kB; first < end; first += kStrip) {
    const int64_t width = smaller(kStrip, end - first);
    for (int64_t i = 0; i < n; ++i) __builtin_memcpy(strip + i * width, a.at(i, first), width * sizeof(double));
    multiply<false>(count, width, n, reflections.columns, 1, kB, strip, width, w, width);
    multiply<false>(count, width, count, reflections.t, 1, kB, w, width, x, width);
    multiply<true>(n, width, count, reflections.columns, kB, 1, x, width, strip, width);
    for (int64_t i = 0; i < n; ++i) __builtin_memcpy(a.at(i, first), strip + i * width, width * sizeof(double));
  }
}

static void from_right(const Reflections& reflections, const Matrix& a, int64_t rows, const Range& blocks) {
  const int64_t n = reflections.length, count = reflections.count;
  double w[kB * kB], x[kB * kB];
  for (int64_t block = blocks.begin; block < blocks.end; ++block) {
    double* const from = a.at(block * kB, 0);
    const int64_t some = smaller(kB, rows - block * kB);
    multiply<false>(some, count, n, from, a.row, 1, reflections.columns, kB, w, kB);
    multiply<false>(some, count, count, w, kB, 1, reflections.t, kB, x, kB);
    multiply<true>(some, n, count, x, kB, 1, reflections.vectors.data, reflections.vectors.row, from, a.row);
  }
}

// Row by row: a reflection from the right takes what is beyond the bidiagonal, which fills a block below the diagonal;
// one from the left takes the first column of that, which fills a block beyond the band, whose first row is next. What
// else was filled waits for the following rows (B. Lang, "Parallel reduction of banded matrices to bidiagonal form",
// 1996).
static void bidiagonal(const Matrix& band, int64_t n, double* diagonal, double* above) {
  double v[kB], w[2 * kB];
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t row = i, next = i + 1; next < n; row = next, next += kB) {
      const int64_t length = smaller(kB, n - next), rows = next + length;
      const int64_t columns = smaller(length + kB, n - next);
      double* const x = band.at(row, next);
      for (int64_t j = 0; j < length; ++j) {
        v[j] = x[j];
        x[j] = 0;
      }
      double tau = reflection(v, length, x[0]);
      for (int64_t r = row + 1; r < rows; ++r) {
        double* const y = band.at(r, next);
        add_scaled(-tau * dot(v, y, length), v, y, length);
      }
      for (int64_t r = 0; r < length; ++r) {
        v[r] = *band.at(next + r, next);
        *band.at(next + r, next) = 0;
      }
      tau = reflection(v, length, *band.at(next, next));
      for (int64_t j = 0; j < columns; ++j) w[j] = 0;
      for (int64_t r = 0; r < length; ++r) add_scaled(v[r], band.at(next + r, next + 1), w, columns - 1);
      for (int64_t r = 0; r < length; ++r) add_scaled(-tau * v[r], w, band.at(next + r, next + 1), columns - 1);
    }
    diagonal[i] = *band.at(i, i);
    above[i] = i + 1 < n ? *band.at(i, i + 1) : 0;
  }
}

extern const LinalgLoops linalg_loops;
const LinalgLoops linalg_loops = {reflect, from_left, from_right, bidiagonal, sum_of_singular_values};

}  // namespace DGM_LEVEL
}  // namespace dgm
