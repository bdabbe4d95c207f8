#include "noise.h"

#include <torch/csrc/stable/accelerator.h>

#include "../cpu/tensors.h"

namespace dgm {
namespace {

Tensor normal(std::vector<int64_t> size, const Tensor& seed, int64_t offset, ScalarType type) {
  require_drawable(seed, offset);
  const Dtype dtype = dtype_of(type);
  const torch::stable::accelerator::DeviceGuard guard(seed.get_device_index());
  Tensor out = torch::stable::new_empty(seed, size, type);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(seed.get_device_index(), &stream));
  const int error = dgm_cuda_normals(dtype, out.mutable_data_ptr(), seed.const_data_ptr<int64_t>(), (uint64_t)offset,
                                     out.numel(), stream);
  if (error != 0) throw std::runtime_error("normal: the CUDA launch failed with error " + std::to_string(error));
  return out;
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, CUDA, m) { m.impl("normal", TORCH_BOX(&dgm::normal)); }
