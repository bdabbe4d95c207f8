// From torch tensors to the operands of a loop, and back: checks, dense copies, outputs, per-sample sums.
#pragma once
#include <array>

#include "../kernels/operand.h"
#include "../kernels/range.h"
#include "queue.h"
#include "tensors.h"

namespace dgm {

// The tensors of a pointwise op, all dense in the memory order of the first one; keeps dense copies alive.
class Operands {
  const Queue queue_;  // first: copies are made on its device

 public:
  const MemoryFormat layout;
  const Dtype dtype;
  const int64_t inner, numel;  // elements of a sample, of all

  explicit Operands(const Tensor& like)
      : queue_(like),
        layout(layout_of(like)),
        dtype(dtype_of(like.scalar_type())),
        inner(inner_of(like)),
        numel(like.numel()),
        like_(like) {}

  int64_t samples() const { return like_.dim() == 0 ? 1 : like_.size(0); }
  ScalarType sum_type() const { return compute_type(like_.scalar_type()); }

  // An input of the shape and dtype of the first.
  Operand in(const Tensor& x, const char* name) {
    require_alike(x, like_, name);
    return {keep(dense(x, layout)).mutable_data_ptr()};
  }

  // A result like the first input.
  Operand out(Tensor& result) const {
    result = empty_dense(like_, layout, like_.scalar_type());
    return {result.mutable_data_ptr()};
  }

  // The two halves of the channels of x: [N, 2 C, ...] where the first input is [N, C, ...].
  std::array<Operand, 2> in_halves(const Tensor& x, const char* name) {
    bool fits =
        like_.dim() >= 2 && x.dim() == like_.dim() && x.scalar_type() == like_.scalar_type() && is_beside(x, like_);
    for (int64_t d = 0; fits && d < x.dim(); ++d) fits = x.size(d) == like_.size(d) * (d == 1 ? 2 : 1);
    if (!fits)
      throw std::invalid_argument(std::string(name) + ": expected a " DGM_DEVICE
                                                      " tensor [N, 2 C, ...] of the dtype of the others");
    return halves(keep(dense(x, layout)));
  }

  // A result with twice the channels of the first input.
  std::array<Operand, 2> out_halves(const Tensor& like, Tensor& result) const {
    result = empty_dense(like, layout, like.scalar_type());
    return halves(result);
  }

  NoiseSource noise(const std::optional<Tensor>& given, const std::optional<Tensor>& seed, int64_t offset) {
    return noise_of(like_, layout, given, seed, offset, keep(Tensor()));
  }

  // Runs a loop(range) over all elements.
  template <class Loop>
  void run(const Loop& loop, int64_t grain = kGrainRead) const {
    queue_.run(numel, grain, loop);
  }

  // Runs a loop(range) over the samples, which together are as much work as that many elements.
  template <class Loop>
  void run_samples(const Loop& loop, int64_t work) const {
    queue_.run(samples(), samples() * kGrainDrawn / (work + 1) + 1, loop);
  }

  // Runs a loop(sums, range) over parts of the samples; returns scale * sum + shift, each [N]. `how` says more.
  template <int kSums, class Loop>
  std::array<Tensor, kSums> sum_samples_in(ScalarType type, const Loop& loop, std::array<double, kSums> scale,
                                           SampleSums how) const {
    require(like_.dim() >= 1, "expected a tensor [N, ...]");
    return sum<kSums>(samples(), inner, {like_.size(0)}, type, loop, scale, how);
  }

  // Sums over all elements as one sample; results without dimensions.
  template <int kSums, class Loop>
  std::array<Tensor, kSums> sum_all_in(ScalarType type, const Loop& loop, std::array<double, kSums> scale,
                                       SampleSums how) const {
    return sum<kSums>(1, numel, {}, type, loop, scale, how);
  }

  // The same in the compute type.
  template <int kSums, class Loop>
  std::array<Tensor, kSums> sum_samples(const Loop& loop, std::array<double, kSums> scale, SampleSums how = {}) const {
    return sum_samples_in<kSums>(sum_type(), loop, scale, how);
  }

  template <int kSums, class Loop>
  std::array<Tensor, kSums> sum_samples(const Loop& loop, double scale = 1, SampleSums how = {}) const {
    std::array<double, kSums> scales;
    scales.fill(scale);
    return sum_samples<kSums>(loop, scales, how);
  }

  // A gradient [N] of per-sample sums, as dense numbers in the compute type.
  const void* per_sample(const Tensor& grad, const char* name) {
    return numbers(grad, sum_type(), name, "] in float32 (float64 for float64), one per sample");
  }

  // Numbers [N] in fp64.
  const double* doubles(const Tensor& x, const char* name) {
    return (const double*)numbers(x, ScalarType::Double, name, "] in float64");
  }

 private:
  template <int kSums, class Loop>
  std::array<Tensor, kSums> sum(int64_t count, int64_t elements, const std::vector<int64_t>& sizes, ScalarType type,
                                const Loop& loop, const std::array<double, kSums>& scale, SampleSums how) const {
    how.part = elements < Queue::kPart ? elements : Queue::kPart;
    how.each = (elements + Queue::kPart - 1) / Queue::kPart;
    how.all = count * how.each;
    how.wide = type == ScalarType::Double;
    std::array<Tensor, kSums> results;
    for (int k = 0; k < kSums; ++k) {
      results[k] = empty_strided(like_, sizes, std::vector<int64_t>(sizes.size(), 1), type);
      how.out[k] = results[k].mutable_data_ptr();
      how.scale[k] = scale[k];
    }
    queue_.sum(how, kSums, count, like_, loop);
    return results;
  }

  const void* numbers(const Tensor& x, ScalarType type, const char* name, const char* expected) {
    if (x.dim() != 1 || x.size(0) != samples() || x.scalar_type() != type || !is_beside(x, like_))
      throw std::invalid_argument(std::string(name) + ": expected a " DGM_DEVICE " tensor [N" + expected);
    return keep(dense(x, MemoryFormat::Contiguous)).const_data_ptr();
  }

  Tensor& keep(Tensor x) {
    kept_.push_back(std::move(x));
    return kept_.back();
  }

  std::array<Operand, 2> halves(const Tensor& x) const {
    const int64_t run = layout == MemoryFormat::Contiguous ? inner : like_.size(1);
    const int64_t bytes = run * (dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2);
    char* data = (char*)x.mutable_data_ptr();
    return {Operand{data, run, 2 * run}, Operand{data + bytes, run, 2 * run}};
  }

  const Tensor like_;
  std::vector<Tensor> kept_;
};

}  // namespace dgm
