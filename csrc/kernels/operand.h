// A tensor as a kernel sees it.
#pragma once
#include <stdint.h>

namespace dgm {

// Elements in the op's memory order. Dense unless `run` is set: then element i lies at i / run / repeat * pitch + i %
// run, as one half of the channels of a tensor with twice as many does, or what several samples share.
struct Operand {
  void* data = nullptr;
  int64_t run = 0, pitch = 0, repeat = 1;
};

}  // namespace dgm
