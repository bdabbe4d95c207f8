// Importance weights on the CPU: k samples of each datum, [N, k, D] densely in row-major order.
#pragma once
#include "dtypes.h"
#include "levels.h"
#include "noise_source.h"

namespace dgm {

struct LogRatio {
  Dtype dtype;
  const void *mu, *logvar;  // [N, D]
  int64_t k, inner;         // samples of a datum; D
  NoiseSource noise;        // [N, k, D]
};

struct LogRatioForward : LogRatio {
  void* z;  // [N, k, D]
};

struct LogRatioBackward : LogRatio {
  const void* grad_z;      // [N, k, D], or nullptr: zero
  const void* grad_ratio;  // [N, k] in the compute type, or nullptr: zero
  void *dmu, *dlogvar;     // [N, D]
};

struct ImportanceLoops {
  // log ratios summed over the parts begin to end of the N k samples (pointwise.h: sum_parts), and z
  void (*log_ratio)(const LogRatioForward& args, double* sums, int64_t all, int64_t begin, int64_t end);
  // gradients of the pieces begin to end: the columns of each datum, kLogRatioPiece at a time
  void (*log_ratio_backward)(const LogRatioBackward& args, int64_t begin, int64_t end);
};

// Columns that backward takes at a time: a chunk (chunks.h).
constexpr int64_t kLogRatioPiece = 512;

}  // namespace dgm

DGM_LOOPS(ImportanceLoops, importance_loops)
