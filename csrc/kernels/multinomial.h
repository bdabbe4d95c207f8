// Multinomial negative log-likelihoods, counts dense or sparse (CSR): arguments.
#pragma once
#include "../cpu/levels.h"
#include "dtypes.h"
#include "operand.h"
#include "range.h"

namespace dgm {

enum class CountType { like_log_probs, int32, int64 };

struct Counts {
  CountType type;
  const void* values;
};

struct Multinomial {
  Dtype dtype;
  Counts counts;
  Operand log_probs;
  int64_t inner;  // elements of a sample
};

struct MultinomialBackward {
  Dtype dtype;
  Counts counts;
  const void* grad;  // [N], in the compute type
  Operand dlog_probs;
  int64_t inner;
};

// CSR: the non-zeros of row n are crow[n] to crow[n + 1].
struct SparseMultinomial {
  Dtype dtype;
  Counts counts;
  const void *crow, *col;
  bool wide_indices;  // int64, else int32
  int64_t nonzeros, columns;
  const void* log_probs = nullptr;  // [N, V]; forward
  void* nll = nullptr;              // [N], in the compute type; forward
  const void* grad = nullptr;       // [N], in the compute type; backward
  void* dlog_probs = nullptr;       // [N, V]; backward
  int64_t* outside = nullptr;       // gets the number of a non-zero whose column is not in [0, V), on the CPU
};

struct MultinomialLoops {
  void (*sums)(const Multinomial& args, const SampleSums& sums, const Range& parts);
  void (*backward)(const MultinomialBackward& args, const Range& elements);
  // columns outside are left out; on CUDA they make NaN of the row
  void (*sparse_forward)(const SparseMultinomial& args, const Range& rows);
  void (*sparse_backward)(const SparseMultinomial& args, const Range& rows);
};

}  // namespace dgm

DGM_LOOPS(MultinomialLoops, multinomial_loops)
