// Diagonal Gaussians; logvar is log sigma^2.
#pragma once
#include "exponential.h"

namespace dgm {

// KL(N(mu, e^logvar) || N(0, 1)) = (mu^2 + e^logvar - 1 - logvar) / 2; sigma = e^(logvar / 2)
template <class C>
DGM_HD C kl_standard(C mu, C logvar, C sigma) {
  return (C)0.5 * (mu * mu + exp_minus_1_minus_x(logvar, sigma * sigma));
}

// KL between two: ((mu - mu_p)^2 / e^logvar_p + e^d - 1 - d) / 2, d = logvar - logvar_p
template <class C>
DGM_HD C kl_between(C mu, C logvar, C mu_p, C logvar_p) {
  const C diff = mu - mu_p, d = logvar - logvar_p;
  return (C)0.5 * (diff * diff * exp_of(-logvar_p) + exp_minus_1_minus_x(d, exp_of(d)));
}

}  // namespace dgm
