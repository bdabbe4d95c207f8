#include "../kernels/noise.h"

#include "queue.h"

namespace dgm {
namespace {

Tensor normal(std::vector<int64_t> size, const Tensor& seed, int64_t offset, ScalarType type) {
  require_drawable(seed, offset);
  const Queue queue(seed);
  Tensor out = torch::stable::new_empty(seed, size, type);
  const NormalFill args = {dtype_of(type), out.mutable_data_ptr(), seed.const_data_ptr<int64_t>(), (uint64_t)offset};
  const NormalLoops& loops = pick_normal_loops(level());
  queue.run(out.numel(), kGrainDrawn, [&](const Range& range) { loops.fill(args, range); });
  return out;
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, DGM_KEY, m) { m.impl("normal", TORCH_BOX(&dgm::normal)); }
