// Diffusion formulas (Ho et al. 2020).
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

}  // namespace dgm
