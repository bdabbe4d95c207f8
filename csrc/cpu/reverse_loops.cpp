#include "pointwise.h"
// the driver first
#include "../kernels/reverse_kernels.h"
#include "select.h"

namespace dgm {
namespace DGM_LEVEL {

template <class T>
static void bound_of(const DynamicBound& args, const Range& samples) {
  using C = compute_t<T>;
  const Work<X0Magnitudes<T>> work = {{{{}, args.steps}}, args.inner, {args.out, args.x}, {}};
  OfSample<X0Magnitudes<T>> of(work.kernel);
  // a sample and its counters: no vector of std here (levels.h)
  bits_t<C>* const values = (bits_t<C>*)__builtin_malloc((args.inner + kChunk + kLanes) * sizeof(C));
  uint32_t* const counters = (uint32_t*)__builtin_malloc(sizeof(uint32_t) << kTopBits);
  for (int64_t n = samples.begin; n < samples.end; ++n) {
    double bound = __builtin_nan("");
    if (values != nullptr && counters != nullptr) {
      for (int64_t i = 0; i < args.inner; i += kChunk) {
        const int m = args.inner - i < kChunk ? (int)(args.inner - i) : kChunk;
        chunk(work, nullptr, of, n * args.inner + i, m, (C(*)[kChunk + kLanes])(values + i));
      }
      bound = quantile_of_magnitudes<C>(values, args.inner, args.quantile, counters);
    }
    args.bounds[n] = bound < 1 ? 1 : bound;  // a NaN stays one
  }
  __builtin_free(values);
  __builtin_free(counters);
}

static void dynamic_bound(const DynamicBound& args, const Range& samples) {
  DGM_DISPATCH(args.dtype, bound_of<T>(args, samples));
}

}  // namespace DGM_LEVEL
}  // namespace dgm
