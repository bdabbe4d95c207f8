// A tensor as a loop sees it.
#pragma once
#include <stdint.h>

namespace dgm {

// Elements in the op's memory order. Dense unless `run` is set: then element i lies at i / run * pitch + i % run, as
// one half of the channels of a tensor with twice as many does.
struct Operand {
  void* data = nullptr;
  int64_t run = 0, pitch = 0;
};

// Sums over a sample are taken over parts of it of this many elements, so that they do not depend on the threads.
constexpr int64_t kPart = 8192;

}  // namespace dgm
