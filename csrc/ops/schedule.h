// The steps of a batch and the table of its diffusion schedule, checked.
#pragma once
#include <utility>

#include "../kernels/steps.h"
#include "tensors.h"

namespace dgm {

// t [N], int64, every step in [first, first + T) (on CUDA the kernels see to that); table [rows, T], float64. Keeps
// dense copies alive.
class Steps {
 public:
  Steps(const Tensor& t, const Tensor& table, int64_t rows, const Tensor& x, const char* name = "t", int64_t first = 0)
      : t_(checked(t, x, name)), table_(checked(table, rows, x)) {
    table_of_steps_ = {t_.const_data_ptr<int64_t>(), table_.const_data_ptr<double>(), table_.size(1)};
#if !defined(DGM_NO_SYNC)
    for (int64_t i = 0; i < t_.numel(); ++i)
      if (const int64_t step = table_of_steps_.t[i]; step < first || step >= table_of_steps_.count)
        throw std::out_of_range(std::string(name) + ": expected steps in [" + std::to_string(first) + ", " +
                                std::to_string(table_of_steps_.count) + "), got " + std::to_string(step));
#else
    (void)first;
#endif
  }

  operator StepTable() const { return table_of_steps_; }

 private:
  static Tensor checked(const Tensor& t, const Tensor& x, const char* name) {
    require(x.dim() >= 1, "x0: expected a tensor [N, ...]");
    if (t.scalar_type() != ScalarType::Long || t.dim() != 1 || t.size(0) != x.size(0) || !is_beside(t, x))
      throw std::invalid_argument(std::string(name) + ": expected an int64 " DGM_DEVICE
                                                      " tensor [N], one step per sample");
    return dense(t, MemoryFormat::Contiguous);
  }

  static Tensor checked(const Tensor& table, int64_t rows, const Tensor& x) {
    require(
        table.scalar_type() == ScalarType::Double && table.dim() == 2 && table.size(0) == rows && is_beside(table, x),
        "table: expected a float64 " DGM_DEVICE " tensor [rows, T] of a schedule");
    return dense(table, MemoryFormat::Contiguous);
  }

  Tensor t_, table_;
  StepTable table_of_steps_;
};

inline Prediction prediction_of(const std::string& name) {
  if (name == "eps") return Prediction::eps;
  if (name == "x0") return Prediction::x0;
  require(name == "v", "prediction: expected eps, x0 or v");
  return Prediction::v;
}

inline Variance variance_of(const std::string& name) {
  if (name == "fixed_small") return Variance::fixed_small;
  if (name == "fixed_large") return Variance::fixed_large;
  if (name == "learned") return Variance::learned;
  require(name == "learned_range", "variance: expected fixed_small, fixed_large, learned or learned_range");
  return Variance::learned_range;
}

}  // namespace dgm
