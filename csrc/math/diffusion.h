// Diffusion formulas (Ho et al. 2020): noising, what a model predicts, and the coefficients of the reverse steps.
#pragma once
#include "lanes.h"

namespace dgm {

// x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (eq. 4)
template <class C>
DGM_HD C noised(C signal, C sigma, C x0, C eps) {
  return signal * x0 + sigma * eps;
}

// v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans & Ho 2022)
template <class C>
DGM_HD C velocity(C signal, C sigma, C x0, C eps) {
  return signal * eps - sigma * x0;
}

enum class Prediction { eps, x0, v };

// signal = sqrt(abar_t), sigma = sqrt(1 - abar_t) of a step.
struct NoiseLevel {
  double signal, sigma;
};

// The x_0 that a model's output means: x0 = by_x x_t + by_out out.
struct ToX0 {
  double by_x, by_out;
};

DGM_HD ToX0 to_x0(Prediction prediction, NoiseLevel at) {
  switch (prediction) {
    case Prediction::eps: return {1 / at.signal, -at.sigma / at.signal};
    case Prediction::v: return {at.signal, -at.sigma};
    default: return {0, 1};
  }
}

// x0 of those factors; an infinite x plays no part where the model predicts x_0 itself.
template <class C>
DGM_HD C x0_of(C by_x, C by_out, C x, C out) {
  return (by_x == 0 ? (C)0 : by_x * x) + by_out * out;
}

// x_0 - x0 = factor (out - target), where out means x0 and target means x_0.
DGM_HD double error_of_x0(Prediction prediction, NoiseLevel at) {
  switch (prediction) {
    case Prediction::eps: return at.sigma / at.signal;
    case Prediction::v: return at.sigma;
    default: return -1;
  }
}

// What a model is to predict.
template <class C>
DGM_HD C target_of(Prediction prediction, C signal, C sigma, C x0, C eps) {
  switch (prediction) {
    case Prediction::eps: return eps;
    case Prediction::v: return velocity(signal, sigma, x0, eps);
    default: return x0;
  }
}

// A step of a sampler: next = by_x x_t + by_x0 x0 + by_last (the step before's x0) + sigma noise.
struct Step {
  double by_x, by_x0, by_last, sigma;
};

// DDIM from one level to another (Song et al. 2021, eq. 12 and 16): the noise that x0 implies is partly kept, partly
// drawn anew.
DGM_HD Step ddim_step(NoiseLevel at, NoiseLevel to, double eta) {
  const double gap = at.sigma * at.sigma - to.sigma * to.sigma;  // 1 - abar / abar_to = gap / abar_to
  const double variance = eta * eta * to.sigma * to.sigma * gap / (at.sigma * at.sigma * to.signal * to.signal);
  const double drawn = variance > 0 ? variance : 0;  // none on the way up
  const double left = to.sigma * to.sigma - drawn, kept = left > 0 ? __builtin_sqrt(left) : 0;
  return {kept / at.sigma, to.signal - kept * at.signal / at.sigma, 0, __builtin_sqrt(drawn)};
}

// DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), lambda = log(signal / sigma):
// next = sigma_to / sigma x_t - signal_to (e^-h - 1) D, D = x0 + (x0 - x0_last) h / (2 h_last). First order, D = x0,
// where there is no last step and for the step to sigma = 0.
DGM_HD Step dpm_solver_step(NoiseLevel at, NoiseLevel to, NoiseLevel last, bool second_order) {
  const double by_d = to.signal - at.signal * to.sigma / at.sigma;
  double half_ratio = 0;
  if (second_order && to.sigma > 0) {
    const double h = __builtin_log(to.signal * at.sigma / (to.sigma * at.signal));
    const double h_last = __builtin_log(at.signal * last.sigma / (at.sigma * last.signal));
    half_ratio = h / (2 * h_last);
  }
  return {to.sigma / at.sigma, by_d * (1 + half_ratio), -by_d * half_ratio, 0};
}

}  // namespace dgm
