// Diagonal Gaussians on the CPU. All tensors lie densely in one memory order; `inner` elements make a sample.
#pragma once
#include "dtypes.h"
#include "levels.h"
#include "noise_source.h"
#include "operand.h"

namespace dgm {

struct Gaussian {
  Dtype dtype;
  Operand mu, logvar;
  Operand mu_p, logvar_p;  // of the prior; without data: N(0, 1)
  int64_t inner;
  NoiseSource noise;
};

// An output without data is not asked for and not computed.
struct GaussianForward : Gaussian {
  Operand z;   // sample
  Operand kl;  // KL per element
};

struct GaussianBackward : Gaussian {
  Operand grad_z;                          // without data: zero
  Operand grad_kl;                         // per element
  const void* grad_kl_sample = nullptr;    // or per sample, [N] in the compute type; neither: zero
  Operand dmu, dlogvar, dmu_p, dlogvar_p;  // the prior's where it has parameters
};

struct GaussianLoops {
  // z or kl, elements begin to end, in memory order
  void (*forward)(const GaussianForward& args, int64_t begin, int64_t end);
  // KL summed over the parts begin to end (pointwise.h: sum_parts), and z
  void (*forward_sums)(const GaussianForward& args, double* sums, int64_t all, int64_t begin, int64_t end);
  // elements begin to end, in memory order
  void (*backward)(const GaussianBackward& args, int64_t begin, int64_t end);
};

}  // namespace dgm

DGM_LOOPS(GaussianLoops, gaussian_loops)
