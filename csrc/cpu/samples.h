// Walking over the samples of a batch whose elements are taken in chunks.
#pragma once
#include "../math/lanes.h"

namespace dgm {
namespace DGM_LEVEL {

// Calls body(from, to, sample) for each sample's part of the elements i ... i + m - 1; from and to count from i.
template <class Body>
static DGM_HD void for_each_sample(int64_t i, int m, int64_t inner, const Body& body) {
  int64_t sample = i / inner, next = (sample + 1) * inner - i;
  for (int from = 0; from < m; ++sample, next += inner) {
    const int to = next < m ? (int)next : m;
    body(from, to, sample);
    from = to;
  }
}

}  // namespace DGM_LEVEL
}  // namespace dgm
