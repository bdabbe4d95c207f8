#include "blocks.h"
#include "frechet.h"

namespace dgm {
namespace DGM_LEVEL {

constexpr int64_t kB = kMatrixBlock;

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

static void invert_blocks(const Matrix& u, int64_t n, double* inverses) {
  for (int64_t first = 0; first < n; first += kB) {
    double* const x = inverses + first * kB;
    const int64_t width = smaller(kB, n - first);
    for (int64_t i = width - 1; i >= 0; --i) {
      const double* const row = u.at(first + i, first);
      double* const y = x + i * kB;
      for (int64_t j = 0; j < kB; ++j) y[j] = j == i;
      for (int64_t k = i + 1; k < width; ++k) add_scaled(-row[k], x + k * kB, y, kB);
      for (int64_t j = i; j < kB; ++j) y[j] /= row[i];
    }
  }
}

// Blocks of columns X of U^-1 from the diagonal up: X_i = -U_ii^-1 sum_k>i U_ik X_k.
static void inverse_squares(const Matrix& u, int64_t n, const double* inverses, double* sums, const Range& pairs) {
  const Scratch scratch(n * kB);
  double* const x = scratch.data;
  for_pairs(pairs, blocks_of(n), [&](int64_t block) {
    const int64_t last = block * kB, width = smaller(kB, n - last), end = last + width;
    for (int64_t i = 0; i < width; ++i)
      __builtin_memcpy(x + (last + i) * width, inverses + (last + i) * kB, width * sizeof(double));
    for (int64_t i = last - kB; i >= 0; i -= kB) {
      double w[kB * kB];
      const int64_t next = i + kB;
      multiply<false>(kB, width, end - next, u.at(i, next), u.row, 1, x + next * width, width, w, width);
      for (int64_t k = 0; k < kB * width; ++k) x[i * width + k] = 0;
      multiply<true>(kB, width, kB, inverses + i * kB, kB, 1, w, width, x + i * width, width);
    }
    sums[block] = dot(x, x, end * width);
  });
}

extern const FrechetLoops frechet_loops;
const FrechetLoops frechet_loops = {factor_rows, subtract_rows, triangular_product, invert_blocks, inverse_squares};

}  // namespace DGM_LEVEL
}  // namespace dgm
