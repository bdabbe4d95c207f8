// Diagonal Gaussians on the CPU. All tensors lie densely in one memory order; `inner` elements make a sample.
#pragma once
#include "dtypes.h"
#include "levels.h"
#include "noise_source.h"

namespace dgm {

struct Gaussian {
  Dtype dtype;
  const void *mu, *logvar;
  const void *mu_p = nullptr, *logvar_p = nullptr;  // of the prior; null: N(0, 1)
  int64_t inner;
  NoiseSource noise;
};

// Outputs may be null: what is not asked for is not computed.
struct GaussianForward {
  Gaussian in;
  void* z = nullptr;          // sample
  void* kl = nullptr;         // KL per element
  double* kl_sums = nullptr;  // [samples, parts]: KL summed over each part of a sample
};

struct GaussianBackward {
  Gaussian in;
  const void* grad_z = nullptr;     // null: zero
  const void* grad_kl = nullptr;    // null: zero
  bool grad_kl_per_sample = false;  // grad_kl is [N] in the compute dtype, else like mu
  void* dmu = nullptr;              // null: not wanted
  void* dlogvar = nullptr;
  void* dlogvar_p = nullptr;
};

// Sums over a sample are taken over parts of it of this many elements, so that they do not depend on the threads.
constexpr int64_t kPart = 8192;

struct GaussianLoops {
  // parts begin to end (kPart elements of a sample each, the last one shorter), counted over all samples
  void (*forward)(const GaussianForward& args, int64_t begin, int64_t end);
  // elements begin to end, in memory order
  void (*backward)(const GaussianBackward& args, int64_t begin, int64_t end);
};

}  // namespace dgm

DGM_LOOPS(GaussianLoops, gaussian_loops)
