// Training losses of diffusion models on the CPU. Tensors lie densely in one memory order; `inner` elements make a
// sample; sums are over parts of samples (pointwise.h: sum_parts).
#pragma once
#include "../math/diffusion.h"
#include "dtypes.h"
#include "levels.h"
#include "noise_source.h"
#include "operand.h"

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

// An operand without data plays no part.
struct DiffusionLoss {
  Dtype dtype;
  Operand out, v, x0, x_t;  // of the model: its prediction, its variance
  int64_t inner;
  Prediction prediction;
  double clip;            // of the predicted x_0; infinite: none
  const LossStep* steps;  // [N]
  NoiseSource noise;
};

struct DiffusionLossBackward : DiffusionLoss {
  const double *grad_mse, *grad_vb;  // [N], of the sums
  bool frozen_mean;                  // the bound does not train the prediction
  Operand dout, dv;
};

struct SquareSum {
  Dtype dtype;
  Operand x, dx;
  int64_t inner;
  const double* grad;  // [N], of the sums
};

struct BoundLoops {
  // sum of (out - target)^2
  void (*mse)(const DiffusionLoss& args, double* sums, int64_t all, int64_t begin, int64_t end);
  void (*mse_backward)(const DiffusionLossBackward& args, int64_t begin, int64_t end);
  // sum of the bound's terms, in nats
  void (*vb)(const DiffusionLoss& args, double* sums, int64_t all, int64_t begin, int64_t end);
  void (*vb_backward)(const DiffusionLossBackward& args, int64_t begin, int64_t end);
  // both, the noise drawn
  void (*hybrid)(const DiffusionLoss& args, double* sums, int64_t all, int64_t begin, int64_t end);
  void (*hybrid_backward)(const DiffusionLossBackward& args, int64_t begin, int64_t end);
  // sum of x^2
  void (*square)(const SquareSum& args, double* sums, int64_t all, int64_t begin, int64_t end);
  void (*square_backward)(const SquareSum& args, int64_t begin, int64_t end);
};

}  // namespace dgm

DGM_LOOPS(BoundLoops, bound_loops)
