// Diagonal Gaussians: arguments. All tensors lie densely in one memory order; `inner` elements make a sample.
#pragma once
#include "../cpu/levels.h"
#include "dtypes.h"
#include "noise_source.h"
#include "operand.h"
#include "range.h"

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
  // z or kl
  void (*forward)(const GaussianForward& args, const Range& elements);
  // KL summed over samples, and z
  void (*forward_sums)(const GaussianForward& args, const SampleSums& sums, const Range& parts);
  void (*backward)(const GaussianBackward& args, const Range& elements);
};

}  // namespace dgm

DGM_LOOPS(GaussianLoops, gaussian_loops)
