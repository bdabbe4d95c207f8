// The steps of a batch and the table of its diffusion schedule, checked.
#pragma once
#include "tensors.h"

namespace dgm {

// t [N], int64, every step in [first, first + T); table [rows, T], float64. Keeps dense copies alive.
class Steps {
 public:
  const int64_t* t;

  Steps(const Tensor& t_, const Tensor& table, int64_t rows, const Tensor& x, const char* name = "t", int64_t first = 0)
      : t_(checked(t_, x, name)), table_(table), count_(table.dim() == 2 ? table.size(1) : 0) {
    require(table.scalar_type() == ScalarType::Double && table.dim() == 2 && table.size(0) == rows && table.is_cpu(),
            "table: expected a float64 CPU tensor [rows, T] of a schedule");
    table_ = dense(table, MemoryFormat::Contiguous);
    t = this->t_.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < this->t_.numel(); ++i)
      if (t[i] < first || t[i] >= count_)
        throw std::out_of_range(std::string(name) + ": expected steps in [" + std::to_string(first) + ", " +
                                std::to_string(count_) + "), got " + std::to_string(t[i]));
  }

  const double* row(int64_t i) const { return table_.const_data_ptr<double>() + i * count_; }
  int64_t count() const { return count_; }

 private:
  static Tensor checked(const Tensor& t, const Tensor& x, const char* name) {
    require(x.dim() >= 1, "x0: expected a tensor [N, ...]");
    if (t.scalar_type() != ScalarType::Long || t.dim() != 1 || t.size(0) != x.size(0) || !t.is_cpu())
      throw std::invalid_argument(std::string(name) + ": expected an int64 CPU tensor [N], one step per sample");
    return dense(t, MemoryFormat::Contiguous);
  }

  Tensor t_, table_;
  int64_t count_;
};

}  // namespace dgm
