// Reverse diffusion steps on the CPU. Tensors lie densely in one memory order; `inner` elements make a sample.
#pragma once
#include "dtypes.h"
#include "levels.h"
#include "noise_source.h"
#include "operand.h"

namespace dgm {

// The step of one sample: with x0 = clip(x0_by_x x + x0_by_out out) x0_scale,
//   next = by_x x + by_out out + by_x0 x0 + by_last last + sigma eps.
// by_x0 is 0 where nothing is clipped: there x0 is part of by_x and by_out, in fp64.
struct SampleStep {
  double x0_by_x, x0_by_out, bound, x0_scale;
  double by_x, by_out, by_x0, by_last;
  double sigma;              // of a fixed variance
  double logvar, logvar_by;  // of a learned one: log sigma^2 = logvar + logvar_by v, v being what the model gives
};

// An operand without data plays no part.
struct ReverseStep {
  Dtype dtype;
  Operand out, v, x, last;  // of the model: its prediction, its variance; x_t; x0 of the step before
  Operand next, x0;
  int64_t inner;
  const SampleStep* steps;  // [N]
  bool clips, draws;
  NoiseSource noise;
};

struct ReverseBackward : ReverseStep {
  Operand grad, grad_x0;
  Operand dout, dv, dx, dlast;
};

struct ReverseLoops {
  // elements begin to end, in memory order
  void (*step)(const ReverseStep& args, int64_t begin, int64_t end);
  void (*backward)(const ReverseBackward& args, int64_t begin, int64_t end);
  // quantile (linear interpolation, as torch.quantile) of |x0| before clipping, for samples begin to end; `scratch`
  // holds one sample in the compute type and 2^14 32-bit counters
  void (*quantile)(const ReverseStep& args, double q, double* quantiles, void* scratch, int64_t begin, int64_t end);
};

}  // namespace dgm

DGM_LOOPS(ReverseLoops, reverse_loops)
