// GroupNorm, modulation and SiLU: y = silu(h), h = xhat w + b with xhat = (x - mean) rstd of a group and, for each
// channel, w = weight (1 + scale), b = bias (1 + scale) + shift.
#pragma once
#include "sigmoid.h"

namespace dgm {

// A channel's h = a (x - mean) + b. The mean of the formula is rounded to the arithmetic's precision; b makes up for
// it.
struct NormCoefficients {
  double a, b;
};

DGM_HD NormCoefficients norm_coefficients(double mean, double rounded_mean, double rstd, double w, double b) {
  return {rstd * w, (rounded_mean - mean) * rstd * w + b};
}

// The gradient by x of a group of m elements, dh being the gradient by h: with the group's means of w dh and w dh xhat,
// dx = rstd (w dh - mean(w dh) - xhat mean(w dh xhat)) = (rstd w) dh + slope (x - mean) + offset.
struct NormGradient {
  double slope, offset;
};

DGM_HD NormGradient norm_gradient(double rstd, double mean_dxhat, double mean_dxhat_xhat) {
  return {-rstd * rstd * mean_dxhat_xhat, -rstd * mean_dxhat};
}

}  // namespace dgm
