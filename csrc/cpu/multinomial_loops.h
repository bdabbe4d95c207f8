// Multinomial negative log-likelihoods on the CPU, counts dense or sparse (CSR).
#pragma once
#include "dtypes.h"
#include "levels.h"
#include "operand.h"

namespace dgm {

enum class CountType { like_log_probs, int32, int64 };

struct Counts {
  CountType type;
  const void* values;
  // CSR: the non-zeros of row n are crow[n] to crow[n + 1], all within them; null: dense, like log_probs
  const void *crow = nullptr, *col = nullptr;
  bool wide_indices = false;  // int64, else int32
};

struct Multinomial {
  Dtype dtype;
  Counts counts;
  Operand log_probs;           // forward
  const void* grad = nullptr;  // backward: [N], in the compute type
  Operand dlog_probs;          // backward
  int64_t inner;               // elements of a sample; V for CSR
};

struct MultinomialLoops {
  // dense: summed over the parts begin to end (pointwise.h: sum_parts)
  void (*sums)(const Multinomial& args, double* sums, int64_t all, int64_t begin, int64_t end);
  // dense: elements begin to end, in memory order
  void (*backward)(const Multinomial& args, int64_t begin, int64_t end);
  // CSR: rows begin to end, sums[n] for each. Returns the number of a non-zero whose column is not in [0, V), which it
  // left out, or -1.
  int64_t (*sparse_sums)(const Multinomial& args, double* sums, int64_t begin, int64_t end);
  int64_t (*sparse_backward)(const Multinomial& args, int64_t begin, int64_t end);
};

}  // namespace dgm

DGM_LOOPS(MultinomialLoops, multinomial_loops)
