// Filling a tensor with normals: arguments.
#pragma once
#include "../cpu/levels.h"
#include "dtypes.h"
#include "range.h"

namespace dgm {

// out[i] = normal first + i of the seed, rounded to the dtype
struct NormalFill {
  Dtype dtype;
  void* out;
  const int64_t* seed;
  uint64_t first;
};

struct NormalLoops {
  void (*fill)(const NormalFill& args, const Range& elements);
};

}  // namespace dgm

DGM_LOOPS(NormalLoops, normal_loops)
