// Negative log-likelihoods per sample on the CPU, and their gradients. All tensors lie densely in one memory order.
#pragma once
#include "dtypes.h"
#include "levels.h"
#include "operand.h"

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
  // summed over the parts begin to end (pointwise.h: sum_parts)
  void (*sums)(const Likelihood& args, double* sums, int64_t all, int64_t begin, int64_t end);
  // elements begin to end, in memory order
  void (*backward)(const LikelihoodBackward& args, int64_t begin, int64_t end);
};

}  // namespace dgm

DGM_LOOPS(LikelihoodLoops, likelihood_loops)
