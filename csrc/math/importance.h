// Importance weights of a diagonal Gaussian q = N(mu, sigma^2) under p = N(0, 1); logvar is log sigma^2.
#pragma once
#include "exponential.h"

namespace dgm {

// z = mu + sigma eps, and one dimension's log p(z) - log q(z) = (eps^2 + logvar - z^2) / 2. Its squares cancel where q
// is near p: eps^2 - z^2 = -(z - eps)(z + eps) with z - eps = mu + (sigma - 1) eps keeps the digits there.
template <class C>
DGM_HD C log_ratio_of(C mu, C logvar, C sigma, C sigma_minus_1, C eps, C& z) {
  z = mu + sigma * eps;
  return (C)0.5 * (logvar - (mu + sigma_minus_1 * eps) * (z + eps));
}

// The gradients of one sample by mu and by 2 logvar, given those by z and by the log ratio.
template <class C>
DGM_HD void log_ratio_gradients(C mu, C sigma, C eps, C grad_z, C grad_ratio, C& by_mu, C& by_logvar) {
  by_mu = grad_z - grad_ratio * (mu + sigma * eps);
  by_logvar = sigma * by_mu * eps + grad_ratio;
}

}  // namespace dgm
