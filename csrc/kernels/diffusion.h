// Diffusion noising: arguments. All tensors lie densely in one memory order; `inner` elements make a sample.
#pragma once
#include "../cpu/levels.h"
#include "dtypes.h"
#include "noise_source.h"
#include "operand.h"
#include "range.h"
#include "steps.h"

namespace dgm {

enum class Target { none, eps, v };

struct QSample {
  Dtype dtype;
  Operand x0, x_t;
  Target target;
  Operand wanted;  // of the target
  int64_t inner;
  StepTable steps;
  NoiseSource noise;
};

struct Scale {
  Dtype dtype;
  Operand x, out;
  int64_t inner;
  StepTable steps;
  int row;  // of the factor
};

// mean = by_x0[t] x0 + by_x[t] x; backward: dx0 = by_x0[t] grad, dx = by_x[t] grad
struct Posterior {
  Dtype dtype;
  Operand x0, x, mean;
  Operand grad, dx0, dx;
  int64_t inner;
  StepTable steps;
};

struct DiffusionLoops {
  void (*q_sample)(const QSample& args, const Range& elements);
  void (*scale)(const Scale& args, const Range& elements);
  void (*posterior)(const Posterior& args, const Range& elements);
  void (*posterior_backward)(const Posterior& args, const Range& elements);
};

}  // namespace dgm

DGM_LOOPS(DiffusionLoops, diffusion_loops)
