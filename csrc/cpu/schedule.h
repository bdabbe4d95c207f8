// The steps of a batch and the table of its diffusion schedule, checked.
#pragma once
#include <utility>

#include "../math/diffusion.h"
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

// Rows of DiffusionSchedule.p_table.
enum Row { kSignal, kSigma, kMeanX0, kMeanX, kLogvarSmall, kLogvarLarge, kLogBeta, kRows };

enum class Variance { fixed_small, fixed_large, learned, learned_range };

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

inline bool is_learned(Variance variance) {
  return variance == Variance::learned || variance == Variance::learned_range;
}

// The level of step t of a p_table; -1 is x_0 itself.
inline NoiseLevel level_at(const Steps& steps, int64_t t) {
  return t < 0 ? NoiseLevel{1, 0} : NoiseLevel{steps.row(kSignal)[t], steps.row(kSigma)[t]};
}

// The log-variance of the reverse step at t: first + second v, v being what the model gives.
inline std::pair<double, double> logvar_at(const Steps& steps, int64_t t, Variance variance) {
  const double small = steps.row(kLogvarSmall)[t], large = steps.row(kLogBeta)[t];
  switch (variance) {
    case Variance::fixed_small: return {small, 0};
    case Variance::fixed_large: return {steps.row(kLogvarLarge)[t], 0};
    case Variance::learned: return {0, 1};
    default: return {(large + small) / 2, (large - small) / 2};
  }
}

}  // namespace dgm
