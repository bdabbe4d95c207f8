// Uniforms from Philox words. This file defines the per-sample weights of dgmkern.interpolate.
//
// u = ((w >> 9) + 1/2) / 2^23 of a word w: 2^23 values in (0, 1), symmetric about 1/2, never 0 or 1. Both u and 1 - u
// are exact in fp32 (and so in every wider type), so that no backend can round them differently.
#pragma once
#include "philox.h"

namespace dgm {

template <class L>
DGM_HD typename L::F uniform_of(typename L::U w) {
  const typename L::F whole = L::to_float((typename L::I)(w >> 9));
  return L::mul(L::add(whole, L::number(0.5f)), L::number(0x1p-23f));
}

}  // namespace dgm
