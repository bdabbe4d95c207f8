// Normals on the CPU.
#pragma once
#include <stdint.h>

#include "../kernels/dtypes.h"
#include "levels.h"

namespace dgm {

struct NoiseLoops {
  // out[i] = normal first + i of `seed`, i < n
  void (*normals)(float* out, uint64_t seed, uint64_t first, int64_t n);
  // the four Philox words of counters first ... first + n - 1; out [n, 4]
  void (*words)(uint32_t* out, uint64_t seed, uint64_t first, int64_t n);
};

}  // namespace dgm

DGM_LOOPS(NoiseLoops, noise_loops)
