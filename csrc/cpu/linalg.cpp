// Nuclear norms by a reduction to a band, then to a bidiagonal; traces of square roots by pivoted Cholesky factors.
#include "linalg.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "../ops/queue.h"

namespace dgm {
namespace {

constexpr int64_t kB = kMatrixBlock;
constexpr double kEps = std::numeric_limits<double>::epsilon();

int64_t padded(int64_t n) { return std::max<int64_t>((n + kMatrixUnit - 1) / kMatrixUnit, 1) * kMatrixUnit; }

// Zeros in whole units; rows are not a power of 2 apart, which would put them into the same sets of the cache.
class Padded {
 public:
  const int64_t rows, columns;
  Padded(int64_t m, int64_t n) : rows(padded(m)), columns(padded(n)), row_(columns + 8), data_(rows * row_) {}
  Matrix view(int64_t i = 0, int64_t j = 0) { return {data_.data() + i * row_ + j, row_}; }
  double& at(int64_t i, int64_t j) { return data_[i * row_ + j]; }

 private:
  const int64_t row_;
  std::vector<double> data_;
};

// Runs loop(range) over blocks of some `flops` each: on torch's threads, unless one of those is running this.
template <class Loop>
void share(int64_t blocks, int64_t flops, const Loop& loop) {
  const int64_t grain = 1 + 400000 / (flops + 1);
  torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) { loop(Range{begin, end}); });
}

// The upper band of U^T A V for orthogonal U and V (C. Bischof, B. Lang and X. Sun, 2000): panels of columns and of
// rows are taken to triangles in turn. A has at least as many rows as columns.
class Band {
 public:
  explicit Band(int64_t n) : n_(n), row_(3 * kB), data_((n + 1) * row_ + n + 2 * kB) {}
  // skewed: the diagonal is row_ + 1 numbers from row to row
  Matrix view() { return {data_.data() + kB, row_}; }

  void reduce(Padded& a) {
    const LinalgLoops& loops = pick_linalg_loops(level());
    const int64_t m = a.rows;
    std::vector<double> vectors(kB * (m + 8)), columns(kB * m), triangle(kB * kB);
    Reflections reflections;
    reflections.vectors = {vectors.data(), m + 8};
    reflections.columns = columns.data();
    // the first panel is the smaller one: after it, what is left is no narrower than a panel
    for (int64_t k = 0, width = n_ % kB > 0 ? n_ % kB : kB; k < n_; k += width, width = kB) {
      reflections.count = width;
      reflections.length = m - k;
      for (int64_t i = 0; i < m - k; ++i)
        for (int64_t j = 0; j < width; ++j) *reflections.vectors.at(j, i) = a.at(k + i, k + j);
      loops.reflect(reflections, triangle.data());
      for (int64_t i = 0; i < width; ++i)
        for (int64_t j = i; j < width; ++j) *view().at(k + i, k + j) = triangle[i * kB + j];
      const int64_t next = k + width, rest = n_ - next;
      if (rest == 0) break;
      share(blocks_of(rest), 4 * kB * kB * (m - k),
            [&](const Range& blocks) { loops.from_left(reflections, a.view(k, next), rest, blocks); });
      reflections.length = rest;
      for (int64_t i = 0; i < width; ++i) std::copy_n(&a.at(k + i, next), rest, reflections.vectors.at(i, 0));
      loops.reflect(reflections, triangle.data());
      for (int64_t i = 0; i < width; ++i)
        for (int64_t j = 0; j <= i; ++j) *view().at(k + i, next + j) = triangle[j * kB + i];
      share(blocks_of(m - next), 4 * kB * kB * rest,
            [&](const Range& blocks) { loops.from_right(reflections, a.view(next, next), m - next, blocks); });
    }
  }

 private:
  const int64_t n_, row_;
  std::vector<double> data_;
};

// The sum of the singular values of A, which is overwritten and has at least as many rows as columns; NaN where
// something in it is not finite.
double nuclear_norm_of(Padded& a) {
  double largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t j = 0; j < a.columns; ++j) {
      finite = finite && std::isfinite(a.at(i, j));
      largest = std::max(largest, std::fabs(a.at(i, j)));
    }
  if (!finite) return std::numeric_limits<double>::quiet_NaN();
  if (largest == 0) return 0;
  const int exponent = std::ilogb(largest);  // no square overflows, none that counts vanishes
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t j = 0; j < a.columns; ++j) a.at(i, j) = std::ldexp(a.at(i, j), -exponent);
  Band band(a.columns);
  band.reduce(a);
  const LinalgLoops& loops = pick_linalg_loops(level());
  std::vector<double> diagonal(a.columns), above(a.columns), scratch(2 * a.columns);
  loops.bidiagonal(band.view(), a.columns, diagonal.data(), above.data());
  double sum;
  if (!loops.sum_of_singular_values(diagonal.data(), above.data(), a.columns, scratch.data(), sum))
    return std::numeric_limits<double>::quiet_NaN();
  return std::ldexp(sum, exponent);
}

// A batch of matrices: [..., M, N] in row-major order.
struct Batch {
  Tensor kept;
  const double* data;
  int64_t count = 1, m, n;

  Batch(const Tensor& x, const char* name) {
    if (!x.is_cpu() || x.scalar_type() != ScalarType::Double || x.dim() < 2)
      throw std::invalid_argument(std::string(name) + ": expected a float64 CPU tensor [..., M, N]");
    kept = dense(x, MemoryFormat::Contiguous);
    data = kept.const_data_ptr<double>();
    for (int64_t d = 0; d + 2 < x.dim(); ++d) count *= x.size(d);
    m = x.size(x.dim() - 2);
    n = x.size(x.dim() - 1);
  }

  Tensor numbers() const {  // [...], one a matrix
    std::vector<int64_t> sizes, strides;
    for (int64_t d = 0; d + 2 < kept.dim(); ++d) sizes.push_back(kept.size(d));
    int64_t stride = 1;
    for (size_t d = sizes.size(); d-- > 0; stride *= std::max<int64_t>(sizes[d], 1))
      strides.insert(strides.begin(), stride);
    return empty_strided(kept, sizes, strides, ScalarType::Double);
  }
};

Tensor nuclear_norm(const Tensor& b) {
  const Batch batch(b, "b");
  Tensor result = batch.numbers();
  double* const out = (double*)result.mutable_data_ptr();
  torch::stable::parallel_for(0, batch.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const double* const x = batch.data + k * batch.m * batch.n;
      const bool tall = batch.m >= batch.n;
      Padded a(std::max(batch.m, batch.n), std::min(batch.m, batch.n));
      for (int64_t i = 0; i < batch.m; ++i)
        for (int64_t j = 0; j < batch.n; ++j) (tall ? a.at(i, j) : a.at(j, i)) = x[i * batch.n + j];
      out[k] = nuclear_norm_of(a);
    }
  });
  return result;
}

std::string say(const char* format, double a, double b) {
  char text[256];
  std::snprintf(text, sizeof text, format, a, b);
  return text;
}

// S = P U^T U P^T with U [rank, D] upper trapezoidal; order says which row of S each is.
struct Factor {
  Padded u;
  std::vector<int64_t> order;
  int64_t rank = 0;
  std::string wrong;  // with S, if anything

  Factor(const double* s, int64_t d, double rounding) : u(d, d), order(u.columns) {
    double largest = 0, unlike = 0;
    int64_t unusual = 0;
    for (int64_t i0 = 0; i0 < d; i0 += kB)
      for (int64_t j0 = 0; j0 <= i0; j0 += kB)
        for (int64_t i = i0; i < std::min(i0 + kB, d); ++i)
          for (int64_t j = j0; j < std::min(j0 + kB, i + 1); ++j) {
            const double a = s[i * d + j], b = s[j * d + i];
            unusual += !std::isfinite(a) + (i != j && !std::isfinite(b));
            largest = std::max({largest, std::fabs(a), std::fabs(b)});
            unlike = std::max(unlike, std::fabs(a - b));
            u.at(j, i) = a / 2 + b / 2;
          }
    if (unusual > 0) {
      wrong = "expected finite numbers, got " + std::to_string(unusual) + " that are not";
    } else if (unlike > rounding * largest) {
      wrong =
          say("expected a symmetric matrix, got one that differs from its transpose by %.3g (rounding explains %.3g)",
              unlike, rounding * largest);
    } else {
      factor(d, rounding);
    }
  }

 private:
  void factor(int64_t d, double rounding) {
    const LinalgLoops& loops = pick_linalg_loops(level());
    const int64_t n = u.columns;
    std::vector<double> diagonal(n);
    double largest = 0;
    for (int64_t i = 0; i < n; ++i) {
      diagonal[i] = u.at(i, i);
      largest = std::max(largest, diagonal[i]);
      order[i] = i;
    }
    const double least = d * kEps * largest;
    for (int64_t first = 0; first < n; first += kB) {
      const int64_t count = loops.factor_rows(u.view(), n, first, least, diagonal.data(), order.data());
      rank = first + count;
      if (count < std::min(kB, n - first)) {
        check_rest(first, diagonal, rounding * largest);
        break;
      }
      share((blocks_of(n - rank) + 1) / 2, kB * kB * 2 * (n - rank),
            [&](const Range& pairs) { loops.subtract_rows(u.view(), n, first, pairs); });
    }
    for (int64_t i = 0; i < u.rows; ++i)  // rows of U are whole: zeros before the diagonal and after the rank
      std::fill_n(&u.at(i, 0), i < rank ? i : n, 0.0);
  }

  // What no row explains is to be no more than rounding, or S has a negative eigenvalue. Rows from `first` on have been
  // subtracted from the diagonal alone.
  void check_rest(int64_t first, const std::vector<double>& diagonal, double allowed) {
    double lowest = 0;
    for (int64_t i = rank; i < u.columns; ++i) {
      lowest = std::min(lowest, diagonal[i]);
      for (int64_t j = i + 1; j < u.columns; ++j) {
        double x = u.at(i, j);
        for (int64_t k = first; k < rank; ++k) x -= u.at(k, i) * u.at(k, j);
        lowest = std::min(lowest, -std::fabs(x));
      }
    }
    if (lowest < -allowed)
      wrong = say(
          "expected a positive semidefinite matrix, got one with an eigenvalue of about %.3g (rounding explains %.3g)",
          lowest, -allowed);
  }
};

// |L1^T L2|_* for S = L L^T, as U1 times the columns of U2^T in the order of U1.
double trace_of(Factor& one, Factor& two) {
  if (one.rank < two.rank) return trace_of(two, one);
  if (two.rank == 0) return 0;
  const int64_t n = one.u.columns;
  std::vector<int64_t> place(n);
  for (int64_t i = 0; i < n; ++i) place[two.order[i]] = i;
  Padded product(one.rank, two.rank);
  std::vector<double> panels(n * product.columns);
  share(blocks_of(product.columns), kB * n * 4, [&](const Range& blocks) {
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      const int64_t j = block * kB, width = std::min(kB, product.columns - j);
      for (int64_t c = 0; c < n; ++c)
        for (int64_t k = 0; k < width; ++k) panels[j * n + c * width + k] = two.u.at(j + k, place[one.order[c]]);
    }
  });
  const Product args = {product.rows, product.columns, n, one.u.view(), panels.data(), product.view()};
  share((blocks_of(product.rows) + 1) / 2, 2 * kB * n * product.columns,
        [&](const Range& pairs) { pick_linalg_loops(level()).triangular_product(args, pairs); });
  return nuclear_norm_of(product);
}

Tensor trace_sqrtm_product(const Tensor& s1, const Tensor& s2, double rounding) {
  const Batch one(s1, "sigma1"), two(s2, "sigma2");
  require(one.m == one.n && same_shape(s1, s2), "sigma2: expected square matrices [..., D, D], alike");
  Tensor result = one.numbers();
  double* const out = (double*)result.mutable_data_ptr();
  std::vector<std::string> wrong(one.count);
  torch::stable::parallel_for(0, one.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      Factor first(one.data + k * one.m * one.m, one.m, rounding);
      Factor second(two.data + k * one.m * one.m, one.m, rounding);
      if (!first.wrong.empty())
        wrong[k] = "sigma1: " + first.wrong;
      else if (!second.wrong.empty())
        wrong[k] = "sigma2: " + second.wrong;
      else
        out[k] = trace_of(first, second);
    }
  });
  for (const std::string& message : wrong) require(message.empty(), message.c_str());
  return result;
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, CPU, m) {
  m.impl("nuclear_norm", TORCH_BOX(&dgm::nuclear_norm));
  m.impl("trace_sqrtm_product", TORCH_BOX(&dgm::trace_sqrtm_product));
}
