// Where the weights of interpolation come from, one per sample.
#pragma once
#include <stdint.h>

namespace dgm {

struct WeightSource {
  const void* given = nullptr;  // [N] in the compute type; else drawn:
  uint64_t seed = 0;
  uint64_t first = 0;  // number of the uniform of sample 0
};

}  // namespace dgm
