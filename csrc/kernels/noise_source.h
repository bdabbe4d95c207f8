// Where the noise of an op comes from.
#pragma once
#include <stdint.h>

namespace dgm {

struct NoiseSource {
  const void* given = nullptr;  // noise in the op's dtype and layout; else it is drawn:
  const int64_t* seed = nullptr;
  uint64_t first = 0;    // number of the normal of element 0
  int64_t channels = 0;  // of a channels_last tensor, else 0: normals are numbered in logical order
  int64_t pixels = 0;
};

}  // namespace dgm
