// Where the weights of interpolation come from, one per sample.
#pragma once
#include "../math/uniform.h"

namespace dgm {

struct WeightSource {
  const void* given = nullptr;  // [N] in the compute type; else drawn:
  const int64_t* seed = nullptr;
  uint64_t first = 0;  // number of the uniform of sample 0

  // The weight of sample n.
  template <class C>
  DGM_HD C at(int64_t n) const {
    if (given != nullptr) return ((const C*)given)[n];
    const uint64_t number = first + (uint64_t)n, counter = number / 4, key = (uint64_t)*seed;
    uint32_t w0 = (uint32_t)counter, w1 = (uint32_t)(counter >> 32), w2, w3;
    philox_of_index<ScalarLanes>(w0, w1, w2, w3, (uint32_t)key, (uint32_t)(key >> 32));
    const uint32_t low = number & 1 ? w1 : w0, high = number & 1 ? w3 : w2;
    return (C)uniform_of<ScalarLanes>(number & 2 ? high : low);
  }
};

}  // namespace dgm
