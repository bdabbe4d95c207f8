// Reverse diffusion steps: arguments. Tensors lie densely in one memory order; `inner` elements make a sample.
#pragma once
#include "../cpu/levels.h"
#include "dtypes.h"
#include "noise_source.h"
#include "operand.h"
#include "range.h"
#include "steps.h"

namespace dgm {

enum class Solver { ddpm, ddim, dpm_solver };

// The step of one sample: with x0 = clip(x0_by_x x + x0_by_out out) x0_scale,
//   next = by_x x + by_out out + by_x0 x0 + by_last last + sigma eps.
// by_x0 is 0 where nothing is clipped: there x0 is part of by_x and by_out, in fp64.
struct SampleStep {
  double x0_by_x, x0_by_out, bound, x0_scale;
  double by_x, by_out, by_x0, by_last;
  double sigma;              // of a fixed variance
  double logvar, logvar_by;  // of a learned one: log sigma^2 = logvar + logvar_by v, v being what the model gives
};

// What the steps of all samples are made of.
struct SolverSteps {
  Solver solver;
  Prediction prediction;
  Variance variance;
  StepTable steps;
  const int64_t* next = nullptr;  // [N], -1: x_0; not for ddpm
  const int64_t* last = nullptr;  // [N], the step before; of dpm_solver, or null
  double eta = 0;
  bool clips = false;
  double clip = 0;
  const double* bounds = nullptr;  // [N], instead of clip

  DGM_HD SampleStep of(int64_t n) const {
    const int64_t t = steps.t[n];
    const NoiseLevel here = steps.level(t);
    const ToX0 x0 = to_x0(prediction, here);
    SampleStep step = {};
    if (solver == Solver::ddpm) {
      const LogVariance logvar = steps.logvar(t, variance);
      step.by_x = steps.at(kMeanX, t);
      step.by_x0 = steps.at(kMeanX0, t);
      step.logvar = t == 0 ? -__builtin_inf() : logvar.first;  // no noise at the end
      step.logvar_by = t == 0 ? 0 : logvar.by;
      step.sigma = __builtin_exp(step.logvar / 2);
    } else {
      const NoiseLevel there = steps.level_or_data(next[n]);
      const Step taken =
          solver == Solver::ddim
              ? ddim_step(here, there, eta)
              : dpm_solver_step(here, there, last == nullptr ? here : steps.level(last[n]), last != nullptr);
      step.by_x = taken.by_x;
      step.by_x0 = taken.by_x0;
      step.by_last = taken.by_last;
      step.sigma = taken.sigma;
    }
    step.x0_by_x = x0.by_x;
    step.x0_by_out = x0.by_out;
    step.bound = __builtin_inf();
    step.x0_scale = 1;
    if (!clips) {
      step.by_x += step.by_x0 * x0.by_x;
      step.by_out = step.by_x0 * x0.by_out;
      step.by_x0 = 0;
    } else if (bounds == nullptr) {
      step.bound = clip;
    } else {
      step.bound = bounds[n];
      step.x0_scale = 1 / bounds[n];
    }
    return step;
  }
};

// An operand without data plays no part.
struct ReverseStep {
  Dtype dtype;
  Operand out, v, x, last;  // of the model: its prediction, its variance; x_t; x0 of the step before
  Operand next, x0;
  int64_t inner;
  SolverSteps steps;
  bool draws;
  NoiseSource noise;
};

struct ReverseBackward : ReverseStep {
  Operand grad, grad_x0;
  Operand dout, dv, dx, dlast;
};

// max(1, the quantile (linear interpolation, as torch.quantile) of |x0| before clipping) of each sample.
struct DynamicBound {
  Dtype dtype;
  Operand out, x;
  int64_t inner;  // below 2^31
  SolverSteps steps;
  double quantile;
  double* bounds;
};

struct ReverseLoops {
  void (*step)(const ReverseStep& args, const Range& elements);
  void (*backward)(const ReverseBackward& args, const Range& elements);
  void (*dynamic_bound)(const DynamicBound& args, const Range& samples);
};

}  // namespace dgm

DGM_LOOPS(ReverseLoops, reverse_loops)
