#include "../kernels/importance.h"

#include "operands.h"

namespace dgm {
namespace {

// k samples of each datum: [N, k, ...]. Everything is row-major: a channels_last mu is copied, a k-th of what is
// written.
class Samples {
 public:
  const ScalarType type;
  const Queue queue;
  int64_t data, inner = 1;     // N; D
  std::vector<int64_t> shape;  // [N, k, ...]

  Samples(const Tensor& mu, const Tensor& logvar, int64_t k) : type(mu.scalar_type()), queue(mu), k_(k) {
    require(mu.dim() >= 1, "mu: expected a tensor [N, ...]");
    require(k >= 1, "k: expected a number of samples >= 1");
    require_alike(logvar, mu, "logvar");
    data = mu.size(0);
    shape = {data, k};
    for (int64_t d = 1; d < mu.dim(); ++d) {
      shape.push_back(mu.size(d));
      inner *= mu.size(d);
    }
    mu_ = dense(mu, MemoryFormat::Contiguous);
    logvar_ = dense(logvar, MemoryFormat::Contiguous);
  }

  template <class Args>
  Args args(const std::optional<Tensor>& noise, const std::optional<Tensor>& seed, int64_t offset) {
    Args args;
    args.dtype = dtype_of(type);
    args.mu = mu_.const_data_ptr();
    args.logvar = logvar_.const_data_ptr();
    args.data = data;
    args.k = k_;
    args.inner = inner;
    if (noise.has_value()) in(*noise, "noise");
    args.noise = noise_of(noise.has_value() ? *noise : mu_, MemoryFormat::Contiguous, noise, seed, offset, noise_);
    return args;
  }

  // A tensor like z.
  const void* in(const Tensor& x, const char* name) {
    bool fits = is_beside(x, mu_) && x.scalar_type() == type && x.dim() == (int64_t)shape.size();
    for (int64_t d = 0; fits && d < x.dim(); ++d) fits = x.size(d) == shape[d];
    if (!fits)
      throw std::invalid_argument(std::string(name) + ": expected a " DGM_DEVICE
                                                      " tensor [N, k, ...] of the dtype of mu");
    return keep(x);
  }

  // A tensor like the log ratios.
  const void* in_ratios(const Tensor& x, const char* name) {
    if (!is_beside(x, mu_) || x.scalar_type() != compute_type(type) || x.dim() != 2 || x.size(0) != data ||
        x.size(1) != k_)
      throw std::invalid_argument(std::string(name) + ": expected a " DGM_DEVICE
                                                      " tensor [N, k] in float32 (float64 for float64)");
    return keep(x);
  }

  Tensor like_mu() const { return empty_dense(mu_, MemoryFormat::Contiguous, type); }

 private:
  const void* keep(const Tensor& x) {
    kept_.push_back(dense(x, MemoryFormat::Contiguous));
    return kept_.back().const_data_ptr();
  }

  const int64_t k_;
  Tensor mu_, logvar_, noise_;
  std::vector<Tensor> kept_;
};

std::tuple<Tensor, Tensor> gaussian_log_ratio(const Tensor& mu, const Tensor& logvar, int64_t k,
                                              std::optional<Tensor> noise, std::optional<Tensor> seed, int64_t offset) {
  Samples samples(mu, logvar, k);
  LogRatioForward args = samples.args<LogRatioForward>(noise, seed, offset);
  const Tensor z = empty_strided(mu, {samples.data * k, samples.inner}, {samples.inner, 1}, samples.type);
  args.z = z.mutable_data_ptr();
  const ImportanceLoops& loops = pick_importance_loops(level());
  const Tensor ratio = Operands(z).sum_samples<1>(
      [&](const SampleSums& sums, const Range& range) { loops.log_ratio(args, sums, range); })[0];
  return {torch::stable::view(z, samples.shape), torch::stable::view(ratio, {samples.data, k})};
}

std::tuple<Tensor, Tensor> gaussian_log_ratio_backward(std::optional<Tensor> grad_z, std::optional<Tensor> grad_ratio,
                                                       const Tensor& mu, const Tensor& logvar, int64_t k,
                                                       std::optional<Tensor> noise, std::optional<Tensor> seed,
                                                       int64_t offset) {
  Samples samples(mu, logvar, k);
  LogRatioBackward args = samples.args<LogRatioBackward>(noise, seed, offset);
  args.grad_z = grad_z.has_value() ? samples.in(*grad_z, "grad_z") : nullptr;
  args.grad_ratio = grad_ratio.has_value() ? samples.in_ratios(*grad_ratio, "grad_log_ratio") : nullptr;
  Tensor dmu = samples.like_mu(), dlogvar = samples.like_mu();
  args.dmu = dmu.mutable_data_ptr();
  args.dlogvar = dlogvar.mutable_data_ptr();
  const int64_t pieces = (samples.inner + kLogRatioPiece - 1) / kLogRatioPiece;
  const int64_t elements = k * (samples.inner < kLogRatioPiece ? samples.inner : kLogRatioPiece);  // of a piece
  const ImportanceLoops& loops = pick_importance_loops(level());
  samples.queue.run(samples.data * pieces, kGrainDrawn / (elements + 1) + 1,
                    [&](const Range& range) { loops.log_ratio_backward(args, range); });
  return {dmu, dlogvar};
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, DGM_KEY, m) {
  m.impl("gaussian_log_ratio", TORCH_BOX(&dgm::gaussian_log_ratio));
  m.impl("gaussian_log_ratio_backward", TORCH_BOX(&dgm::gaussian_log_ratio_backward));
}
