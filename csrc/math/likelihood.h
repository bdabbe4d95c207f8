// Negative log-likelihoods of one element, in nats, and their derivatives.
#pragma once
#include "discretized_gaussian.h"
#include "softplus.h"

namespace dgm {

// Bernoulli: softplus(l) - x l = (1 - x) max(l, 0) - x min(l, 0) + ln(1 + e^-|l|), in which nothing cancels.
template <class C>
DGM_HD C bernoulli_linear(C logit, C x) {
  return (logit > (C)0 ? (C)1 - x : -x) * logit;
}

template <class C>
DGM_HD C bernoulli_nll(C logit, C x) {
  return bernoulli_linear(logit, x) + log1p_of_unit(exp_minus_abs(logit));
}

// d/dlogit = sigmoid(l) - x, which keeps its digits as l goes to +inf for x = 1 (d/dx is -l)
template <class C>
DGM_HD C bernoulli_nll_grad(C logit, C x) {
  const C y = exp_minus_abs(logit), less_likely = y / ((C)1 + y);
  return logit > (C)0 ? ((C)1 - x) - less_likely : less_likely - x;
}

// Gaussian: (ln 2 pi + logvar + (x - mean)^2 e^-logvar) / 2
template <class C>
DGM_HD C gaussian_nll(C x, C mean, C logvar) {
  const C diff = x - mean;
  return (C)0.5 * ((C)1.8378770664093454836 + logvar + diff * diff * exp_of(-logvar));
}

template <class C>
DGM_HD void gaussian_nll_grad(C x, C mean, C logvar, C& dmean, C& dlogvar) {
  const C diff = x - mean, scaled = diff * exp_of(-logvar);
  dmean = -scaled;
  dlogvar = (C)0.5 * ((C)1 - diff * scaled);
}

// Multinomial, without its coefficient: -count log p; a count of 0 adds nothing, even where p = 0.
template <class C>
DGM_HD C multinomial_nll(C log_prob, C count) {
  return count == (C)0 ? (C)0 : -count * log_prob;
}

}  // namespace dgm
