#include "pointwise.h"
// the driver first
#include "../kernels/adversarial_kernels.h"

namespace dgm {
namespace DGM_LEVEL {

// The numbers themselves, for AddSquares.
template <class T>
struct Numbers : UniformKernel<T, 1, 0, 1, false> {
  using C = compute_t<T>;

  DGM_HD void operator()(const NoSample&, In<C> in, Out<C> out, int from, int to) const {
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) out[0][j] = in[0][j];
  }
};

// In double: no gradient of fp32 overflows or vanishes.
struct AddSquares {
  template <class C>
  using Sum = double;
  template <class C>
  static DGM_HD void add(double& sum, C term) {
    sum += (double)term * (double)term;
  }
};

static void squares(const NormPenalty& args, const SampleSums& sums, const Range& parts) {
  DGM_DISPATCH(args.dtype, run<AddSquares>(Work<Numbers<T>>{{}, args.inner, {args.grad}, {}}, sums, parts));
}

}  // namespace DGM_LEVEL
}  // namespace dgm
