// Importance weights: k samples of each datum, [N, k, D] densely in row-major order. Arguments.
#pragma once
#include "../cpu/levels.h"
#include "dtypes.h"
#include "noise_source.h"
#include "range.h"

namespace dgm {

struct LogRatio {
  Dtype dtype;
  const void *mu, *logvar;  // [N, D]
  int64_t data, k, inner;   // N; samples of a datum; D
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

// Columns of a datum that backward takes at a time: a chunk of the CPU's (chunks.h).
constexpr int64_t kLogRatioPiece = 512;

struct ImportanceLoops {
  // log ratios summed over each of the N k samples, and z
  void (*log_ratio)(const LogRatioForward& args, const SampleSums& sums, const Range& parts);
  void (*log_ratio_backward)(const LogRatioBackward& args, const Range& pieces);
};

}  // namespace dgm

DGM_LOOPS(ImportanceLoops, importance_loops)
