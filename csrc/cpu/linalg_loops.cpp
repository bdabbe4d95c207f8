#include "blocks.h"
#include "linalg.h"

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

static void reflect(Reflections& reflections, double* triangle) {
  double* const t = reflections.t;
  for (int64_t i = 0; i < kB * kB; ++i) t[i] = triangle[i] = 0;
  for (int64_t i = 0; i < kB; ++i) {
    double* const v = reflections.vectors.at(i, 0);
    const int64_t n = reflections.length - i;
    for (int64_t j = 0; j < i; ++j) {
      triangle[j * kB + i] = v[j];
      v[j] = 0;
    }
    const double tau = reflection(v + i, n, triangle[i * kB + i]);
    for (int64_t q = i + 1; q < kB; ++q) {
      double* const x = reflections.vectors.at(q, i);
      add_scaled(-tau * dot(v + i, x, n), v + i, x, n);
    }
    double w[kB];
    for (int64_t j = 0; j < i; ++j) w[j] = -tau * dot(reflections.vectors.at(j, i), v + i, n);
    for (int64_t j = 0; j < i; ++j) t[j * kB + i] = dot(t + j * kB + j, w + j, i - j);
    t[i * kB + i] = tau;
  }
  for (int64_t k = 0; k < reflections.length; ++k)
    for (int64_t i = 0; i < kB; ++i) reflections.columns[k * kB + i] = *reflections.vectors.at(i, k);
}

// A strip is copied: rows of 2048 numbers fall into the same few sets of the cache.
static void from_left(const Reflections& reflections, const Matrix& a, int64_t columns, const Range& blocks) {
  const int64_t n = reflections.length;
  const Scratch scratch(n * kStrip + 2 * kB * kStrip);
  double *const strip = scratch.data, *const w = strip + n * kStrip, *const x = w + kB * kStrip;
  for (int64_t block = blocks.begin; block < blocks.end; block += kStrip / kB) {
    const int64_t end = block + kStrip / kB < blocks.end ? block + kStrip / kB : blocks.end;
    const int64_t first = block * kB, width = (end * kB < columns ? end * kB : columns) - first;
    for (int64_t i = 0; i < n; ++i) __builtin_memcpy(strip + i * width, a.at(i, first), width * sizeof(double));
    multiply<false>(kB, width, n, reflections.columns, 1, kB, strip, width, w, width);
    multiply<false>(kB, width, kB, reflections.t, 1, kB, w, width, x, width);
    multiply<true>(n, width, kB, reflections.columns, kB, 1, x, width, strip, width);
    for (int64_t i = 0; i < n; ++i) __builtin_memcpy(a.at(i, first), strip + i * width, width * sizeof(double));
  }
}

static void from_right(const Reflections& reflections, const Matrix& a, const Range& blocks) {
  const int64_t n = reflections.length;
  double w[kB * kB], x[kB * kB];
  for (int64_t block = blocks.begin; block < blocks.end; ++block) {
    double* const rows = a.at(block * kB, 0);
    multiply<false>(kB, kB, n, rows, a.row, 1, reflections.columns, kB, w, kB);
    multiply<false>(kB, kB, kB, w, kB, 1, reflections.t, kB, x, kB);
    multiply<true>(kB, n, kB, x, kB, 1, reflections.vectors.data, reflections.vectors.row, rows, a.row);
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
      const int64_t length = n - next < kB ? n - next : kB;
      const int64_t rows = next + length < n ? next + length : n;
      const int64_t columns = next + length + kB < n ? length + kB : n - next;
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

// (x, y) -> (r, 0)
struct Rotation {
  double c = 1, s = 0, r;
  Rotation(double x, double y) : r(__builtin_sqrt(x * x + y * y)) {
    if (r > 0) {
      c = x / r;
      s = y / r;
    }
  }
};

// One step of Golub and Kahan's iteration on rows low to high, with the shift of J. Wilkinson.
static void chase(double* d, double* e, int64_t low, int64_t high) {
  const double before = high - 1 > low ? e[high - 2] : 0;
  const double a = d[high - 1] * d[high - 1] + before * before, b = d[high] * d[high] + e[high - 1] * e[high - 1];
  const double c = d[high - 1] * e[high - 1], half = (a - b) / 2, root = __builtin_sqrt(half * half + c * c);
  const double shift = b - (c == 0 ? 0 : c * c / (half + (half >= 0 ? root : -root)));
  double x = d[low] * d[low] - shift, y = d[low] * e[low];
  for (int64_t k = low; k < high; ++k) {
    const Rotation right(x, y);
    if (k > low) e[k - 1] = right.r;
    x = right.c * d[k] + right.s * e[k];
    e[k] = right.c * e[k] - right.s * d[k];
    const Rotation left(x, right.s * d[k + 1]);
    d[k + 1] *= right.c;
    d[k] = left.r;
    x = left.c * e[k] + left.s * d[k + 1];
    d[k + 1] = left.c * d[k + 1] - left.s * e[k];
    if (k + 1 < high) {
      y = left.s * e[k + 1];
      e[k + 1] *= left.c;
    }
  }
  e[high - 1] = x;
}

// Row k without a diagonal loses the number beside it, to the rows after it; the last row of all, to those before.
static void clear_row(double* d, double* e, int64_t k, int64_t high) {
  double f = e[k];
  e[k] = 0;
  for (int64_t j = k + 1; j <= high && f != 0; ++j) {
    const Rotation left(d[j], f);
    d[j] = left.r;
    f = -left.s * e[j];
    e[j] *= left.c;
  }
}

static void clear_last_column(double* d, double* e, int64_t low, int64_t high) {
  double f = e[high - 1];
  e[high - 1] = 0;
  for (int64_t j = high - 1; j >= low && f != 0; --j) {
    const Rotation right(d[j], f);
    d[j] = right.r;
    if (j > low) {
      f = -right.s * e[j - 1];
      e[j - 1] *= right.c;
    }
  }
}

static bool singular_values(double* d, double* e, int64_t n) {
  const double eps = 0x1p-52;
  double largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    largest = __builtin_fmax(largest, __builtin_fabs(d[i]));
    if (i + 1 < n) largest = __builtin_fmax(largest, __builtin_fabs(e[i]));
  }
  if (n > 0) e[n - 1] = 0;
  const auto negligible = [&](int64_t k) {  // e[k]
    const double x = __builtin_fabs(e[k]);
    return x <= eps * (__builtin_fabs(d[k]) + __builtin_fabs(d[k + 1])) || x <= eps * eps * largest;
  };
  int64_t steps = 0;
  for (int64_t high = n - 1; high > 0;) {
    if (negligible(high - 1)) {
      e[--high] = 0;
      continue;
    }
    if (++steps > 60 * n) return false;
    int64_t low = high - 1, empty = -1;
    for (; low > 0 && !negligible(low - 1); --low) {
    }
    if (low > 0) e[low - 1] = 0;
    for (int64_t k = low; k <= high; ++k)
      if (__builtin_fabs(d[k]) <= eps * eps * largest) empty = k;
    if (empty < 0) {
      chase(d, e, low, high);
    } else {
      d[empty] = 0;
      empty == high ? clear_last_column(d, e, low, high) : clear_row(d, e, empty, high);
    }
  }
  for (int64_t i = 0; i < n; ++i) d[i] = __builtin_fabs(d[i]);
  return true;
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
  const int64_t end = first + kB < n ? first + kB : n;
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
  for_pairs(pairs, (n - begin) / kB, [&](int64_t block) {
    const int64_t i = begin + block * kB;
    multiply<true>(kB, n - i, kB, s.at(first, i), 1, s.row, s.at(first, i), s.row, s.at(i, i), s.row);
  });
}

static void triangular_product(const Product& product, const Range& pairs) {
  for (int64_t j = 0; j < product.columns; j += kB) {
    const double* const panel = product.b + j * product.inner;
    for_pairs(pairs, product.rows / kB, [&](int64_t block) {
      const int64_t i = block * kB;
      multiply<false>(kB, kB, product.inner - i, product.a.at(i, i), product.a.row, 1, panel + i * kB, kB,
                      product.c.at(i, j), product.c.row);
    });
  }
}

extern const LinalgLoops linalg_loops;
const LinalgLoops linalg_loops = {reflect,         from_left,   from_right,    bidiagonal,
                                  singular_values, factor_rows, subtract_rows, triangular_product};

}  // namespace DGM_LEVEL
}  // namespace dgm
