// Diffusion noising on the CPU. All tensors lie densely in one memory order; `inner` elements make a sample.
#pragma once
#include "dtypes.h"
#include "levels.h"
#include "noise_source.h"
#include "operand.h"

namespace dgm {

enum class Target { none, eps, v };

struct QSample {
  Dtype dtype;
  Operand x0, x_t;
  Target target;
  Operand wanted;  // of the target
  int64_t inner;
  const int64_t* t;              // [N], in range
  const double *signal, *sigma;  // [T]: sqrt(abar_t), sqrt(1 - abar_t)
  NoiseSource noise;
};

struct Scale {
  Dtype dtype;
  Operand x, out;
  int64_t inner;
  const int64_t* t;
  const double* factor;  // [T]
};

// mean = by_x0[t] x0 + by_x[t] x; backward: dx0 = by_x0[t] grad, dx = by_x[t] grad
struct Posterior {
  Dtype dtype;
  Operand x0, x, mean;
  Operand grad, dx0, dx;
  int64_t inner;
  const int64_t* t;
  const double *by_x0, *by_x;  // [T]
};

struct DiffusionLoops {
  // elements begin to end, in memory order
  void (*q_sample)(const QSample& args, int64_t begin, int64_t end);
  void (*scale)(const Scale& args, int64_t begin, int64_t end);
  void (*posterior)(const Posterior& args, int64_t begin, int64_t end);
  void (*posterior_backward)(const Posterior& args, int64_t begin, int64_t end);
};

}  // namespace dgm

DGM_LOOPS(DiffusionLoops, diffusion_loops)
