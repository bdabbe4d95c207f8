// Terms of the variational bound of a diffusion model (Ho et al. 2020, eq. 5), one element, in nats.
#pragma once
#include "exponential.h"
#include "likelihood.h"

namespace dgm {

// KL(q || p) of two Gaussians whose means differ by `diff`; d = log var_q - log var_p, precision_q = 1 / var_q. The
// caller makes d so that it keeps its digits where the variances agree.
template <class C>
DGM_HD C vb_kl(C diff, C d, C exp_d, C precision_q) {
  return (C)0.5 * (diff * diff * (precision_q * exp_d) + exp_minus_1_minus_x(d, exp_d));
}

template <class C>
DGM_HD void vb_kl_grad(C diff, C d, C exp_d, C precision_q, C& ddiff, C& dlogvar_p) {
  ddiff = diff * (precision_q * exp_d);
  dlogvar_p = (C)-0.5 * (diff * ddiff + exp_minus_1(d, exp_d));
}

}  // namespace dgm
