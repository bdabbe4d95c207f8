#include "pointwise.h"
// the driver first
#include "../kernels/adversarial_kernels.h"

namespace dgm {
namespace DGM_LEVEL {

// Sum of the squares of n numbers in double: no gradient of fp32 overflows or vanishes. Eight lanes, four sums a lane.
template <class C>
static DGM_HD double sum_of_squares(const C* x, int n) {
  constexpr int lanes = 8;
  using Lanes = typename Vector<double, lanes>::type;
  Lanes sums[4] = {};
  int i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes)
    for (int k = 0; k < 4; ++k) {
      typename Vector<C, lanes>::type narrow;
      __builtin_memcpy(&narrow, x + i + k * lanes, sizeof(narrow));
      const Lanes wide = __builtin_convertvector(narrow, Lanes);
      sums[k] += wide * wide;
    }
  double rest = 0;
  for (; i < n; ++i) rest += (double)x[i] * (double)x[i];
  return sum_of_lanes<double, lanes>((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest;
}

template <class T>
static void squares_as(const NormPenalty& args, const SampleSums& sums, const Range& parts) {
  using C = compute_t<T>;
  const T* const grad = (const T*)args.grad.data;
  C buffer[kChunk];
  for (int64_t part = parts.begin; part < parts.end; ++part) {
    const int64_t in_sample = part % sums.each * sums.part, left = args.inner - in_sample;
    const int64_t from = part / sums.each * args.inner + in_sample, to = from + (left < sums.part ? left : sums.part);
    double sum = 0;
    for (int64_t i = from; i < to; i += kChunk) {
      const int m = to - i < kChunk ? (int)(to - i) : kChunk;
      prefetch(grad + i + 4 * kChunk, m);
      sum += sum_of_squares(read(grad + i, m, buffer), m);
    }
    sums.parts[part] = sum;
  }
}

static void squares(const NormPenalty& args, const SampleSums& sums, const Range& parts) {
  DGM_DISPATCH(args.dtype, squares_as<T>(args, sums, parts));
}

}  // namespace DGM_LEVEL
}  // namespace dgm
