// Training losses of diffusion models: arguments. Tensors lie densely in one memory order; `inner` elements make a
// sample.
#pragma once
#include "../cpu/levels.h"
#include "dtypes.h"
#include "noise_source.h"
#include "operand.h"
#include "range.h"
#include "steps.h"

namespace dgm {

// What the losses of one sample at its step t need.
struct LossStep {
  double signal, sigma;       // x_t = signal x_0 + sigma eps
  double x0_by_x, x0_by_out;  // the x_0 that the model's output means
  double error_by_out;        // x_0 less that = error_by_out (out - target)
  double mean_x0, mean_x;     // mean of the posterior = mean_x0 x_0 + mean_x x_t
  double precision_q;         // 1 / its variance
  double logvar, logvar_by;   // the model's log-variance: logvar + logvar_by v
  double gap;                 // the posterior's log-variance less logvar
  bool decodes;               // t = 0: the term is the decoder's likelihood, not a KL divergence
};

struct LossSteps {
  StepTable steps;
  Prediction prediction;
  Variance variance;
  bool reverse;  // the table is a p_table; else a q_table, and only the noising counts

  DGM_HD LossStep of(int64_t n) const {
    const int64_t t = steps.t[n];
    const NoiseLevel level = steps.level(t);
    LossStep step = {};
    step.signal = level.signal;
    step.sigma = level.sigma;
    if (!reverse) return step;
    const ToX0 x0 = to_x0(prediction, level);
    const LogVariance logvar = steps.logvar(t, variance);
    step.x0_by_x = x0.by_x;
    step.x0_by_out = x0.by_out;
    step.error_by_out = error_of_x0(prediction, level);
    step.mean_x0 = steps.at(kMeanX0, t);
    step.mean_x = steps.at(kMeanX, t);
    step.precision_q = __builtin_exp(-steps.at(kLogvarSmall, t));
    step.logvar = logvar.first;
    step.logvar_by = logvar.by;
    step.gap = steps.at(kLogvarSmall, t) - logvar.first;
    step.decodes = t == 0;
    return step;
  }
};

// The gradient by a sum over each sample: scale * grad[n] * weight[n].
struct SumGradient {
  const void* grad = nullptr;  // [N]
  bool wide = false;           // double, else float
  double scale = 1;
  const double* weight = nullptr;

  DGM_HD double at(int64_t n) const {
    const double of_sum = scale * (wide ? ((const double*)grad)[n] : (double)((const float*)grad)[n]);
    return weight == nullptr ? of_sum : weight[n] * of_sum;
  }
};

// An operand without data plays no part.
struct DiffusionLoss {
  Dtype dtype;
  Operand out, v, x0, x_t;  // of the model: its prediction, its variance
  int64_t inner;
  double clip;  // of the predicted x_0; infinite: none
  LossSteps steps;
  NoiseSource noise;
};

struct DiffusionLossBackward : DiffusionLoss {
  SumGradient grad_mse, grad_vb;
  bool frozen_mean = false;  // the bound does not train the prediction
  Operand dout, dv;
};

struct SquareSum {
  Dtype dtype;
  Operand x, dx;
  int64_t inner;
  SumGradient grad;
};

struct BoundLoops {
  // sum of (out - target)^2
  void (*mse)(const DiffusionLoss& args, const SampleSums& sums, const Range& parts);
  void (*mse_backward)(const DiffusionLossBackward& args, const Range& elements);
  // sum of the bound's terms, in nats
  void (*vb)(const DiffusionLoss& args, const SampleSums& sums, const Range& parts);
  void (*vb_backward)(const DiffusionLossBackward& args, const Range& elements);
  // both, the noise drawn
  void (*hybrid)(const DiffusionLoss& args, const SampleSums& sums, const Range& parts);
  void (*hybrid_backward)(const DiffusionLossBackward& args, const Range& elements);
  // sum of x^2
  void (*square)(const SquareSum& args, const SampleSums& sums, const Range& parts);
  void (*square_backward)(const SquareSum& args, const Range& elements);
};

}  // namespace dgm

DGM_LOOPS(BoundLoops, bound_loops)
