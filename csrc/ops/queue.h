// How loops are run: by the threads of the CPU, or on the current stream of a CUDA device.
#pragma once
#include "../kernels/range.h"
#include "tensors.h"
#if defined(DGM_CUDA)
#include <torch/csrc/stable/accelerator.h>

#include <memory>
#endif

namespace dgm {

#if defined(DGM_CUDA) || defined(DGM_EMULATED)

#if defined(DGM_CUDA)
// The device of a tensor, as long as this lives, and its current stream.
class Device {
 public:
  explicit Device(const Tensor& like) : guard_(std::make_shared<Guard>(checked(like))) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream_));
  }
  void* stream() const { return stream_; }

 private:
  static int32_t checked(const Tensor& like) {
    require(is_here(like), "expected CUDA tensors");
    return like.get_device_index();
  }

  using Guard = torch::stable::accelerator::DeviceGuard;
  const std::shared_ptr<const Guard> guard_;
  void* stream_ = nullptr;
};
#else
struct Device {
  explicit Device(const Tensor&) {}
  void* stream() const { return nullptr; }
};
#endif

class Queue {
 public:
  // Elements of a sample that a block sums: one launch sums an image of 64 x 64, and 256 threads get 64 elements each.
  static constexpr int64_t kPart = 16384;

  explicit Queue(const Tensor& like) : device_(like) {}

  template <class Loop>
  void run(int64_t n, int64_t, const Loop& loop) const {
    if (n > 0) loop(Range{0, n, device_.stream()});
  }

  template <class Loop>
  void sum(SampleSums& sums, int count, int64_t samples, const Tensor& like, const Loop& loop) const {
    Tensor parts;
    if (sums.each > 1) {
      parts = empty_strided(like, {count * sums.all}, {1}, ScalarType::Double);
      sums.parts = (double*)parts.mutable_data_ptr();
    }
    if (samples > 0) loop(sums, Range{0, samples * (sums.each > 1 ? sums.each : 1), device_.stream()});
  }

 private:
  const Device device_;
};

#else

class Queue {
 public:
  static constexpr int64_t kPart = 8192;

  explicit Queue(const Tensor& like) { require(like.is_cpu(), "expected CPU tensors"); }

  // Runs loop(range) for parts of [0, n) of at least `grain`, on torch's threads.
  template <class Loop>
  void run(int64_t n, int64_t grain, const Loop& loop) const {
    torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) { loop(Range{begin, end}); });
  }

  // Runs loop(sums, range) for parts of the samples, and finishes their sums.
  template <class Loop>
  void sum(SampleSums& sums, int count, int64_t samples, const Tensor&, const Loop& loop) const {
    std::vector<double> parts(count * sums.all);
    sums.parts = parts.data();
    run(sums.all, kGrainDrawn / (sums.part + 1) + 1, [&](const Range& range) { loop(sums, range); });
    for (int64_t n = 0; n < samples; ++n) finish(sums, count, n);
  }
};

#endif

}  // namespace dgm
