// What part of an op a loop is to do, and where the sums over samples go.
#pragma once
#include <stdint.h>

#include "../math/adversarial.h"

namespace dgm {

// Elements (or parts, or samples) begin to end. On CUDA always all of them, in the order of a stream.
struct Range {
  int64_t begin, end;
  void* stream = nullptr;
};

// Sums over each sample are made over parts of it (of sample_part elements), then over the parts in order, so that they
// depend neither on threads nor on a GPU's schedule.
struct SampleSums {
  int64_t part;   // elements
  int64_t each;   // parts of a sample
  int64_t all;    // parts of all samples
  double* parts;  // [sums, all]; on CUDA null where a sample is one part: its sum is finished where it is made
  void* out[2];   // [N] each, in the compute type: scale[k] * sum k + shift, ...
  bool wide;      // they are double, else float
  double scale[2];
  double shift = 0;
  const double* weight = nullptr;  // [N]; ... the first one times this, ...
  const double* add = nullptr;     // ... plus this number, for N = 1
  bool penalty = false;            // ... or the penalty on the root of the sum (math/adversarial.h)
  double target = 0;
  bool one_sided = false;
};

// Puts the sum k of sample n where it belongs.
DGM_HD void finish(const SampleSums& sums, int k, int64_t n, double sum) {
  double value = sums.scale[k] * sum + sums.shift;
  if (sums.penalty) value = norm_penalty(__builtin_sqrt(sum), sums.target, sums.one_sided);
  if (sums.add != nullptr && k == 0) value += *sums.add;
  if (sums.weight != nullptr && k == 0) value *= sums.weight[n];
  if (sums.wide)
    ((double*)sums.out[k])[n] = value;
  else
    ((float*)sums.out[k])[n] = (float)value;
}

// The same from the parts of all sums.
DGM_HD void finish(const SampleSums& sums, int count, int64_t n) {
  for (int k = 0; k < count; ++k) {
    double sum = 0;
    for (int64_t part = 0; part < sums.each; ++part) sum += sums.parts[k * sums.all + n * sums.each + part];
    finish(sums, k, n, sum);
  }
}

}  // namespace dgm
