// Nuclear norms by a reduction to a band, then to a bidiagonal.
#include <cmath>

#include "matrices.h"

namespace dgm {
namespace {

constexpr int64_t kB = kMatrixBlock;

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

}  // namespace

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

namespace {

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

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, CPU, m) { m.impl("nuclear_norm", TORCH_BOX(&dgm::nuclear_norm)); }
