// Matrices of fp64 on the CPU, and threads that share their blocks.
#pragma once
#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "../ops/queue.h"
#include "linalg.h"

namespace dgm {

constexpr double kEps = std::numeric_limits<double>::epsilon();

inline int64_t padded(int64_t n) { return std::max<int64_t>((n + kMatrixUnit - 1) / kMatrixUnit, 1) * kMatrixUnit; }

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

// The sum of the singular values of A, which is overwritten and has at least as many rows as columns; NaN where
// something in it is not finite.
double nuclear_norm_of(Padded& a);

}  // namespace dgm
