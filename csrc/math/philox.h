// Philox4x32-10, the counter-based generator of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3").
#pragma once
#include "lanes.h"

namespace dgm {

template <class L>
DGM_HD void philox_round(typename L::W& c0, typename L::W& c1, typename L::W& c2, typename L::W& c3, uint32_t k0,
                         uint32_t k1) {
  typename L::W hi0, lo0, hi1, lo1;
  L::mulhilo(c0, 0xD2511F53u, hi0, lo0);
  L::mulhilo(c2, 0xCD9E8D57u, hi1, lo1);
  c0 = hi1 ^ c1 ^ L::word(k0);
  c1 = lo1;
  c2 = hi0 ^ c3 ^ L::word(k1);
  c3 = lo0;
}

// Rounds FIRST to 10 of Philox on (c0, c1, c2, c3) under key (k0, k1), in place.
template <class L, int FIRST = 0>
DGM_HD void philox(typename L::W& c0, typename L::W& c1, typename L::W& c2, typename L::W& c3, uint32_t k0,
                   uint32_t k1) {
#if defined(__CUDA_ARCH__)
#pragma unroll
#elif defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC unroll 10
#endif
  for (uint32_t round = FIRST; round < 10; ++round)
    philox_round<L>(c0, c1, c2, c3, k0 + round * 0x9E3779B9u, k1 + round * 0xBB67AE85u);
}

// Words of counter (c0, c1, 0, 0): the first round with its zeros worked out by hand.
template <class L>
DGM_HD void philox_of_index(typename L::W& c0, typename L::W& c1, typename L::W& c2, typename L::W& c3, uint32_t k0,
                            uint32_t k1) {
  typename L::W hi0, lo0;
  L::mulhilo(c0, 0xD2511F53u, hi0, lo0);
  c0 = c1 ^ L::word(k0);
  c1 = L::word(0);
  c2 = hi0 ^ L::word(k1);
  c3 = lo0;
  philox<L, 1>(c0, c1, c2, c3, k0, k1);
}

}  // namespace dgm
