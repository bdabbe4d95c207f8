// The step of each sample and the table of its diffusion schedule, as kernels read them. A step outside the table makes
// NaN of everything, never a read outside it.
#pragma once
#include "../math/diffusion.h"

namespace dgm {

// Rows of DiffusionSchedule.p_table; q_table has the first two.
enum Row { kSignal, kSigma, kMeanX0, kMeanX, kLogvarSmall, kLogvarLarge, kLogBeta, kRows };

enum class Variance { fixed_small, fixed_large, learned, learned_range };

DGM_HD bool is_learned(Variance variance) {
  return variance == Variance::learned || variance == Variance::learned_range;
}

// log sigma^2 = first + by v, v being what the model gives.
struct LogVariance {
  double first, by;
};

struct StepTable {
  const int64_t* t = nullptr;  // [N]
  const double* rows = nullptr;
  int64_t count = 0;

  DGM_HD double at(int row, int64_t step) const {
    return step >= 0 && step < count ? rows[row * count + step] : __builtin_nan("");
  }

  DGM_HD NoiseLevel level(int64_t step) const { return {at(kSignal, step), at(kSigma, step)}; }

  // The same where -1 stands for x_0 itself.
  DGM_HD NoiseLevel level_or_data(int64_t step) const { return step == -1 ? NoiseLevel{1, 0} : level(step); }

  // Of the reverse step.
  DGM_HD LogVariance logvar(int64_t step, Variance variance) const {
    const double small = at(kLogvarSmall, step), large = at(kLogBeta, step);
    switch (variance) {
      case Variance::fixed_small: return {small, 0};
      case Variance::fixed_large: return {at(kLogvarLarge, step), 0};
      case Variance::learned: return {small == small ? 0 : small, 1};
      default: return {(large + small) / 2, (large - small) / 2};
    }
  }
};

}  // namespace dgm
