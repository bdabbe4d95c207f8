// Diagonal Gaussians; logvar is log sigma^2.
#pragma once
#include "exponential.h"

namespace dgm {

// KL(N(mu, e^logvar) || N(0, 1)) = (mu^2 + e^logvar - 1 - logvar) / 2; sigma = e^(logvar / 2)
template <class C>
DGM_HD C kl_standard(C mu, C logvar, C sigma) {
  return (C)0.5 * (mu * mu + exp_minus_1_minus_x(logvar, sigma * sigma));
}

// e^(a - b) where d is a - b rounded. What rounding loses, up to half an ulp of d, would cost 16 ulp of e^d at |d|
// = 32.
template <class C>
DGM_HD C exp_of_difference(C a, C b, C d) {
  const C back = a - d, lost = (a - (d + back)) - (b - back);  // exact (Knuth)
  const C e = exp_of(d), better = e + e * lost;
  return better == better ? better : e;  // NaN: e or d is not finite
}

// KL between two: ((mu - mu_p)^2 / e^logvar_p + e^d - 1 - d) / 2, d = logvar - logvar_p
template <class C>
DGM_HD C kl_between(C mu, C logvar, C mu_p, C logvar_p) {
  const C diff = mu - mu_p, d = logvar - logvar_p;
  return (C)0.5 * (diff * diff * exp_of(-logvar_p) + exp_minus_1_minus_x(d, exp_of_difference(logvar, logvar_p, d)));
}

}  // namespace dgm
