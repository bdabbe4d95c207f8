// From torch tensors to the operands of a loop, and back: checks, dense copies, outputs, per-sample sums.
#pragma once
#include <array>

#include "operand.h"
#include "tensors.h"

namespace dgm {

// The tensors of a pointwise op, all dense in the memory order of the first one; keeps dense copies alive.
class Operands {
 public:
  const MemoryFormat layout;
  const Dtype dtype;
  const int64_t inner, numel;  // elements of a sample, of all

  explicit Operands(const Tensor& like)
      : layout(layout_of(like)),
        dtype(dtype_of(like.scalar_type())),
        inner(inner_of(like)),
        numel(like.numel()),
        like_(like) {
    require(like.is_cpu(), "expected CPU tensors");
  }

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
    bool fits = like_.dim() >= 2 && x.dim() == like_.dim() && x.scalar_type() == like_.scalar_type() && x.is_cpu();
    for (int64_t d = 0; fits && d < x.dim(); ++d) fits = x.size(d) == like_.size(d) * (d == 1 ? 2 : 1);
    if (!fits)
      throw std::invalid_argument(std::string(name) +
                                  ": expected a CPU tensor [N, 2 C, ...] of the dtype of the others");
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

  // Runs a pointwise loop over all elements.
  template <class Loop>
  void run(const Loop& loop, int64_t grain = kGrainRead) const {
    torch::stable::parallel_for(0, numel, grain, loop);
  }

  // Runs a loop that fills sums[k][part] for parts of the samples; returns scale * sums + shift, each [N].
  template <int kSums, class Loop>
  std::array<Tensor, kSums> sum_samples(const Loop& loop, std::array<double, kSums> scale, double shift = 0) const {
    require(like_.dim() >= 1, "expected a tensor [N, ...]");
    const int64_t parts = (inner + kPart - 1) / kPart, all = samples() * parts;
    std::vector<double> sums(all * kSums);
    if (numel > 0)
      torch::stable::parallel_for(0, all, kGrainDrawn / (inner < kPart ? inner : kPart) + 1,
                                  [&](int64_t begin, int64_t end) { loop(sums.data(), all, begin, end); });
    std::array<Tensor, kSums> results;
    for (int k = 0; k < kSums; ++k) {
      results[k] = empty_samples(like_, sum_type());
      void* data = results[k].mutable_data_ptr();
      for (int64_t n = 0; n < samples(); ++n) {
        double sum = 0;  // the parts in order
        for (int64_t part = 0; part < parts; ++part) sum += sums[k * all + n * parts + part];
        if (dtype == Dtype::f64)
          ((double*)data)[n] = scale[k] * sum + shift;
        else
          ((float*)data)[n] = (float)(scale[k] * sum + shift);
      }
    }
    return results;
  }

  template <int kSums, class Loop>
  std::array<Tensor, kSums> sum_samples(const Loop& loop, double scale = 1, double shift = 0) const {
    std::array<double, kSums> scales;
    scales.fill(scale);
    return sum_samples<kSums>(loop, scales, shift);
  }

  // A gradient [N] of per-sample sums, as dense numbers in the compute type.
  const void* per_sample(const Tensor& grad, const char* name) {
    if (grad.dim() != 1 || grad.size(0) != samples() || grad.scalar_type() != sum_type() || !grad.is_cpu())
      throw std::invalid_argument(std::string(name) +
                                  ": expected a CPU tensor [N] in float32 (float64 for float64), one per sample");
    return keep(dense(grad, MemoryFormat::Contiguous)).const_data_ptr();
  }

 private:
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
