#include "blocks.h"
#include "linalg.h"
#include "singular_values.h"

namespace dgm {
namespace DGM_LEVEL {

constexpr int64_t kB = kMatrixBlock;
constexpr int64_t kStrip = 2 * kB;  // columns that are copied together: 1 MB of 2048 rows

// Scratch of a thread.
class Scratch {
 public:
  explicit Scratch(int64_t n) : data((double*)__builtin_malloc(n * sizeof(double))) {}
  Scratch(const Scratch&) = delete;
  ~Scratch() { __builtin_free(data); }
  double* const data;
};

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

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

template <class T>
static void exchange(T& a, T& b) {
  const T kept = a;
  a = b;
  b = kept;
}

// Rows and columns j < p change places in the upper triangle of what is left, and columns in the rows done.
static void exchange_rows(const Matrix& s, int64_t n, int64_t j, int64_t p) {
  for (int64_t i = 0; i < j; ++i) exchange(*s.at(i, j), *s.at(i, p));
  for (int64_t i = j + 1; i < p; ++i) exchange(*s.at(j, i), *s.at(i, p));
  for (int64_t i = p + 1; i < n; ++i) exchange(*s.at(j, i), *s.at(p, i));
  exchange(*s.at(j, j), *s.at(p, p));
}

static int64_t factor_rows(const Matrix& s, int64_t n, int64_t first, double least, double* diagonal, int64_t* order) {
  const int64_t end = smaller(first + kB, n);
  for (int64_t j = first; j < end; ++j) {
    int64_t p = j;
    for (int64_t i = j + 1; i < n; ++i)
      if (diagonal[i] > diagonal[p]) p = i;
    if (!(diagonal[p] > least)) return j - first;
    if (p != j) {
      exchange_rows(s, n, j, p);
      exchange(diagonal[j], diagonal[p]);
      exchange(order[j], order[p]);
    }
    double* const row = s.at(j, 0);
    for (int64_t k = first; k < j; ++k) add_scaled(-*s.at(k, j), s.at(k, j + 1), row + j + 1, n - j - 1);
    const double root = __builtin_sqrt(diagonal[j]), scale = 1 / root;
    row[j] = root;
    for (int64_t i = j + 1; i < n; ++i) {
      row[i] *= scale;
      diagonal[i] -= row[i] * row[i];
    }
  }
  return end - first;
}

// Calls body(block) for blocks of both ends of [0, count), so that all pairs cost alike.
template <class Body>
static void for_pairs(const Range& pairs, int64_t count, const Body& body) {
  for (int64_t pair = pairs.begin; pair < pairs.end; ++pair) {
    body(pair);
    if (count - 1 - pair != pair) body(count - 1 - pair);
  }
}

static void subtract_rows(const Matrix& s, int64_t n, int64_t first, const Range& pairs) {
  const int64_t begin = first + kB;
  for_pairs(pairs, blocks_of(n - begin), [&](int64_t block) {
    const int64_t i = begin + block * kB;
    multiply<true>(smaller(kB, n - i), n - i, kB, s.at(first, i), 1, s.row, s.at(first, i), s.row, s.at(i, i), s.row);
  });
}

static void triangular_product(const Product& product, const Range& pairs) {
  for (int64_t j = 0; j < product.columns; j += kB) {
    const double* const panel = product.b + j * product.inner;
    const int64_t width = smaller(kB, product.columns - j);
    for_pairs(pairs, blocks_of(product.rows), [&](int64_t block) {
      const int64_t i = block * kB;
      multiply<false>(smaller(kB, product.rows - i), width, product.inner - i, product.a.at(i, i), product.a.row, 1,
                      panel + i * width, width, product.c.at(i, j), product.c.row);
    });
  }
}

extern const LinalgLoops linalg_loops;
const LinalgLoops linalg_loops = {reflect,     from_left,     from_right,        bidiagonal, sum_of_singular_values,
                                  factor_rows, subtract_rows, triangular_product};

}  // namespace DGM_LEVEL
}  // namespace dgm
