// Negative log-likelihoods per sample, and their gradients: arguments. All tensors lie densely in one memory order.
#pragma once
#include "../cpu/levels.h"
#include "dtypes.h"
#include "operand.h"
#include "range.h"

namespace dgm {

enum class Density { bernoulli, gaussian, discretized_gaussian };

struct Likelihood {
  Density density;
  Dtype dtype;
  Operand in[3];  // logits, x; or x, mean, and logvar or log_scale
  int64_t inner;  // elements of a sample
};

struct LikelihoodBackward : Likelihood {
  const void* grad;  // [N], in the compute type
  Operand out[2];    // by logits; or by mean, and by logvar or log_scale
};

struct LikelihoodLoops {
  void (*sums)(const Likelihood& args, const SampleSums& sums, const Range& parts);
  void (*backward)(const LikelihoodBackward& args, const Range& elements);
};

}  // namespace dgm

DGM_LOOPS(LikelihoodLoops, likelihood_loops)
