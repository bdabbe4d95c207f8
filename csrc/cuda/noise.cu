#include "../kernels/noise.h"
#include "pointwise.h"

namespace dgm {
namespace DGM_LEVEL {

template <class T>
struct Normals : UniformKernel<T, 0, 1, 0, true> {
  using C = compute_t<T>;

  DGM_HD void operator()(const NoSample&, In<C> in, Out<C> out, int from, int to) const {
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) out[0][j] = in[0][j];
  }
};

template <class T>
static void fill_as(const NormalFill& args, const Range& elements) {
  NoiseSource noise;
  noise.seed = args.seed;
  noise.first = args.first;
  run(Work<Normals<T>>{{}, elements.end, {}, {{args.out}}, noise}, elements);
}

static void fill(const NormalFill& args, const Range& elements) {
  DGM_DISPATCH(args.dtype, fill_as<T>(args, elements));
}

extern const NormalLoops normal_loops;
const NormalLoops normal_loops = {fill};

}  // namespace DGM_LEVEL
}  // namespace dgm
