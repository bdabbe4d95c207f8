// Normals on the CPU.
#pragma once
#include <stdint.h>

#include "dtypes.h"
#include "levels.h"

namespace dgm {

struct NoiseLoops {
  // out[i] = normal first + i of `seed`, i < n
  void (*normals)(float* out, uint64_t seed, uint64_t first, int64_t n);
  // the same, rounded to a dtype: elements begin to end of out, whose element 0 is normal `first`
  void (*normals_as)(Dtype dtype, void* out, uint64_t seed, uint64_t first, int64_t begin, int64_t end);
  // the four Philox words of counters first ... first + n - 1; out [n, 4]
  void (*words)(uint32_t* out, uint64_t seed, uint64_t first, int64_t n);
};

}  // namespace dgm

DGM_LOOPS(NoiseLoops, noise_loops)
