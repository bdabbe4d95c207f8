// Terms of the variational bound of a diffusion model (Ho et al. 2020, eq. 5), one element, in nats.
#pragma once
#include "exponential.h"
#include "likelihood.h"

namespace dgm {

// KL(q || p) of two Gaussians whose means differ by `diff`.
template <class C>
DGM_HD C vb_kl(C diff, C logvar_q, C logvar_p) {
  const C d = logvar_q - logvar_p;
  return (C)0.5 * (diff * diff * exp_of(-logvar_p) + exp_minus_1_minus_x(d, exp_of(d)));
}

template <class C>
DGM_HD void vb_kl_grad(C diff, C logvar_q, C logvar_p, C& ddiff, C& dlogvar_p) {
  const C d = logvar_q - logvar_p;
  ddiff = diff * exp_of(-logvar_p);
  dlogvar_p = (C)-0.5 * (diff * ddiff + exp_minus_1(d, exp_of(d)));
}

}  // namespace dgm
