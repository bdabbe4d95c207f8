#include "noise_loops.h"
#include "tensors.h"

namespace dgm {
namespace {

Tensor normal(std::vector<int64_t> size, const Tensor& seed, int64_t offset, ScalarType type) {
  require_drawable(seed, offset);
  const Dtype dtype = dtype_of(type);
  Tensor out = torch::stable::empty(size, type);
  const uint64_t key = (uint64_t)*seed.const_data_ptr<int64_t>();
  void* data = out.mutable_data_ptr();
  const NoiseLoops& loops = pick_noise_loops(level());
  torch::stable::parallel_for(0, out.numel(), kGrainDrawn, [&](int64_t begin, int64_t end) {
    loops.normals_as(dtype, data, key, (uint64_t)offset, begin, end);
  });
  return out;
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, CPU, m) { m.impl("normal", TORCH_BOX(&dgm::normal)); }
