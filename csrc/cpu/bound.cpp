#include <cmath>
#include <limits>

#include "bound_loops.h"
#include "operands.h"
#include "schedule.h"

namespace dgm {
namespace {

constexpr double kLn2 = 0.69314718055994530942;

// A loss's tensors and steps; keeps what `args` points to alive.
struct Loss {
  Operands tensors;
  DiffusionLossBackward args;
  std::vector<LossStep> steps;
  std::vector<double> grads[2];

  explicit Loss(const Tensor& x0, const std::string& prediction) : tensors(x0) {
    args.dtype = tensors.dtype;
    args.inner = tensors.inner;
    args.x0 = tensors.in(x0, "x0");
    args.prediction = prediction_of(prediction);
    args.clip = std::numeric_limits<double>::infinity();
  }

  // Steps at which only the noising counts.
  void noise_at(const Tensor& t, const Tensor& q_table, const Tensor& x0) {
    const Steps at(t, q_table, 2, x0);
    steps.resize(tensors.samples());
    for (size_t n = 0; n < steps.size(); ++n) {
      steps[n] = {};
      steps[n].signal = at.row(kSignal)[at.t[n]];
      steps[n].sigma = at.row(kSigma)[at.t[n]];
    }
    args.steps = steps.data();
  }

  void reverse_at(const Tensor& t, const Tensor& p_table, const Tensor& x0, Variance variance) {
    const Steps at(t, p_table, kRows, x0);
    steps.resize(tensors.samples());
    for (size_t n = 0; n < steps.size(); ++n) {
      const int64_t step = at.t[n];
      const NoiseLevel level = level_at(at, step);
      const ToX0 x0_of = to_x0(args.prediction, level);
      const auto [logvar, logvar_by] = logvar_at(at, step, variance);
      steps[n] = {level.signal,
                  level.sigma,
                  x0_of.by_x,
                  x0_of.by_out,
                  error_of_x0(args.prediction, level),
                  at.row(kMeanX0)[step],
                  at.row(kMeanX)[step],
                  std::exp(-at.row(kLogvarSmall)[step]),
                  logvar,
                  logvar_by,
                  at.row(kLogvarSmall)[step] - logvar,
                  step == 0};
    }
    args.steps = steps.data();
  }

  void out_of(const Tensor& model_out, bool halves) {
    if (halves) {
      const auto both = tensors.in_halves(model_out, "model_out");
      args.out = both[0];
      args.v = both[1];
    } else {
      args.out = tensors.in(model_out, "model_out");
    }
  }

  void gradient_into(const Tensor& model_out, Tensor& result) {
    if (args.v.data != nullptr) {
      const auto both = tensors.out_halves(model_out, result);
      args.dout = both[0];
      args.dv = both[1];
    } else {
      args.dout = tensors.out(result);
    }
  }

  // grad [N] times `scale` and, where there are weights, times them: the gradient of a sum.
  const double* of_sum(int which, const Tensor& grad, double scale, const std::optional<Tensor>& weight,
                       const char* name) {
    const void* data = tensors.per_sample(grad, name);
    grads[which] = weights(weight);
    for (size_t n = 0; n < grads[which].size(); ++n)
      grads[which][n] *= scale * (tensors.dtype == Dtype::f64 ? ((const double*)data)[n] : ((const float*)data)[n]);
    return grads[which].data();
  }

  std::vector<double> weights(const std::optional<Tensor>& weight) const {
    std::vector<double> all(tensors.samples(), 1.0);
    if (weight.has_value()) {
      require(weight->scalar_type() == ScalarType::Double && weight->dim() == 1 && weight->is_cpu() &&
                  weight->size(0) == tensors.samples(),
              "weight: expected a float64 CPU tensor [N]");
      const Tensor dense_weight = dense(*weight, MemoryFormat::Contiguous);
      const double* data = dense_weight.const_data_ptr<double>();
      all.assign(data, data + all.size());
    }
    return all;
  }

  void apply(const std::optional<Tensor>& weight, Tensor& sums) const {
    if (!weight.has_value()) return;
    const std::vector<double> all = weights(weight);
    void* data = sums.mutable_data_ptr();
    for (size_t n = 0; n < all.size(); ++n)
      if (tensors.dtype == Dtype::f64)
        ((double*)data)[n] *= all[n];
      else
        ((float*)data)[n] = (float)(((float*)data)[n] * all[n]);
  }

  double mean() const { return 1.0 / (double)tensors.inner; }
  double bits() const { return mean() / kLn2; }
};

const BoundLoops& loops() { return pick_bound_loops(level()); }

Loss mse_of(const Tensor& model_out, const Tensor& x0, const Tensor& t, const Tensor& table,
            const std::optional<Tensor>& noise, const std::optional<Tensor>& seed, int64_t offset,
            const std::string& prediction) {
  Loss loss(x0, prediction);
  loss.out_of(model_out, false);
  loss.noise_at(t, table, x0);
  loss.args.noise = loss.tensors.noise(noise, seed, offset);
  return loss;
}

Tensor diffusion_mse(const Tensor& model_out, const Tensor& x0, const Tensor& t, const Tensor& table,
                     std::optional<Tensor> weight, std::optional<Tensor> noise, std::optional<Tensor> seed,
                     int64_t offset, std::string prediction) {
  const Loss loss = mse_of(model_out, x0, t, table, noise, seed, offset, prediction);
  Tensor mse = loss.tensors.sum_samples<1>(
      [&](double* sums, int64_t all, int64_t begin, int64_t end) { loops().mse(loss.args, sums, all, begin, end); },
      loss.mean())[0];
  loss.apply(weight, mse);
  return mse;
}

Tensor diffusion_mse_backward(const Tensor& grad, const Tensor& model_out, const Tensor& x0, const Tensor& t,
                              const Tensor& table, std::optional<Tensor> weight, std::optional<Tensor> noise,
                              std::optional<Tensor> seed, int64_t offset, std::string prediction) {
  Loss loss = mse_of(model_out, x0, t, table, noise, seed, offset, prediction);
  loss.args.grad_mse = loss.of_sum(0, grad, loss.mean(), weight, "grad");
  Tensor dout;
  loss.gradient_into(model_out, dout);
  loss.tensors.run([&](int64_t begin, int64_t end) { loops().mse_backward(loss.args, begin, end); }, kGrainDrawn);
  return dout;
}

Loss vb_of(const Tensor& model_out, const Tensor& x0, const Tensor& x_t, const Tensor& t, const Tensor& table,
           const std::string& prediction, const std::string& variance, std::optional<double> clip) {
  const Variance kind = variance_of(variance);
  Loss loss(x0, prediction);
  loss.out_of(model_out, is_learned(kind));
  loss.args.x_t = loss.tensors.in(x_t, "x_t");
  if (clip.has_value()) loss.args.clip = *clip;
  loss.reverse_at(t, table, x0, kind);
  return loss;
}

Tensor vb_terms(const Tensor& model_out, const Tensor& x0, const Tensor& x_t, const Tensor& t, const Tensor& table,
                std::string prediction, std::string variance, std::optional<double> clip) {
  const Loss loss = vb_of(model_out, x0, x_t, t, table, prediction, variance, clip);
  return loss.tensors.sum_samples<1>(
      [&](double* sums, int64_t all, int64_t begin, int64_t end) { loops().vb(loss.args, sums, all, begin, end); },
      loss.bits())[0];
}

Tensor vb_terms_backward(const Tensor& grad, const Tensor& model_out, const Tensor& x0, const Tensor& x_t,
                         const Tensor& t, const Tensor& table, std::string prediction, std::string variance,
                         std::optional<double> clip) {
  Loss loss = vb_of(model_out, x0, x_t, t, table, prediction, variance, clip);
  loss.args.grad_vb = loss.of_sum(0, grad, loss.bits(), {}, "grad");
  Tensor dout;
  loss.gradient_into(model_out, dout);
  loss.tensors.run([&](int64_t begin, int64_t end) { loops().vb_backward(loss.args, begin, end); }, kGrainDrawn);
  return dout;
}

Loss hybrid_of(const Tensor& model_out, const Tensor& x0, const Tensor& t, const Tensor& table,
               const std::optional<Tensor>& noise, const std::optional<Tensor>& seed, int64_t offset,
               const std::string& prediction, const std::string& variance) {
  const Variance kind = variance_of(variance);
  require(is_learned(kind), "variance: expected learned or learned_range");
  Loss loss(x0, prediction);
  loss.out_of(model_out, true);
  loss.reverse_at(t, table, x0, kind);
  loss.args.noise = loss.tensors.noise(noise, seed, offset);
  return loss;
}

std::tuple<Tensor, Tensor> hybrid_terms(const Tensor& model_out, const Tensor& x0, const Tensor& t, const Tensor& table,
                                        std::optional<Tensor> weight, std::optional<Tensor> noise,
                                        std::optional<Tensor> seed, int64_t offset, std::string prediction,
                                        std::string variance, bool) {
  const Loss loss = hybrid_of(model_out, x0, t, table, noise, seed, offset, prediction, variance);
  auto [mse, vb] = loss.tensors.sum_samples<2>(
      [&](double* sums, int64_t all, int64_t begin, int64_t end) { loops().hybrid(loss.args, sums, all, begin, end); },
      {loss.mean(), loss.bits()});
  loss.apply(weight, mse);
  return {mse, vb};
}

Tensor hybrid_terms_backward(const Tensor& grad_mse, const Tensor& grad_vb, const Tensor& model_out, const Tensor& x0,
                             const Tensor& t, const Tensor& table, std::optional<Tensor> weight,
                             std::optional<Tensor> noise, std::optional<Tensor> seed, int64_t offset,
                             std::string prediction, std::string variance, bool frozen_mean) {
  Loss loss = hybrid_of(model_out, x0, t, table, noise, seed, offset, prediction, variance);
  loss.args.grad_mse = loss.of_sum(0, grad_mse, loss.mean(), weight, "grad_mse");
  loss.args.grad_vb = loss.of_sum(1, grad_vb, loss.bits(), {}, "grad_vb");
  loss.args.frozen_mean = frozen_mean;
  Tensor dout;
  loss.gradient_into(model_out, dout);
  loss.tensors.run([&](int64_t begin, int64_t end) { loops().hybrid_backward(loss.args, begin, end); }, kGrainDrawn);
  return dout;
}

Tensor prior_bound(const Tensor& x0, double abar) {
  Loss loss(x0, "x0");
  const SquareSum args = {loss.args.dtype, loss.args.x0, {}, loss.args.inner, nullptr};
  // KL(N(sqrt(abar) x0, 1 - abar) || N(0, 1)) = (abar x0^2 - abar - ln(1 - abar)) / 2
  return loss.tensors.sum_samples<1>(
      [&](double* sums, int64_t all, int64_t begin, int64_t end) { loops().square(args, sums, all, begin, end); },
      abar / 2 * loss.bits(), (-abar - std::log1p(-abar)) / (2 * kLn2))[0];
}

Tensor prior_bound_backward(const Tensor& grad, const Tensor& x0, double abar) {
  Loss loss(x0, "x0");
  Tensor dx;
  const SquareSum args = {loss.args.dtype, loss.args.x0, loss.tensors.out(dx), loss.args.inner,
                          loss.of_sum(0, grad, abar / 2 * loss.bits(), {}, "grad")};
  loss.tensors.run([&](int64_t begin, int64_t end) { loops().square_backward(args, begin, end); });
  return dx;
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, CPU, m) {
  m.impl("diffusion_mse", TORCH_BOX(&dgm::diffusion_mse));
  m.impl("diffusion_mse_backward", TORCH_BOX(&dgm::diffusion_mse_backward));
  m.impl("vb_terms", TORCH_BOX(&dgm::vb_terms));
  m.impl("vb_terms_backward", TORCH_BOX(&dgm::vb_terms_backward));
  m.impl("hybrid_terms", TORCH_BOX(&dgm::hybrid_terms));
  m.impl("hybrid_terms_backward", TORCH_BOX(&dgm::hybrid_terms_backward));
  m.impl("prior_bound", TORCH_BOX(&dgm::prior_bound));
  m.impl("prior_bound_backward", TORCH_BOX(&dgm::prior_bound_backward));
}
