#include "../kernels/bound.h"

#include <cmath>
#include <limits>

#include "operands.h"
#include "schedule.h"

namespace dgm {
namespace {

constexpr double kLn2 = 0.69314718055994530942;

// A loss's tensors and steps; keeps what `args` points to alive.
struct Loss {
  Operands tensors;
  DiffusionLossBackward args;
  std::optional<Steps> at;

  explicit Loss(const Tensor& x0, const std::string& prediction) : tensors(x0) {
    args.dtype = tensors.dtype;
    args.inner = tensors.inner;
    args.x0 = tensors.in(x0, "x0");
    args.steps.prediction = prediction_of(prediction);
    args.clip = std::numeric_limits<double>::infinity();
  }

  // Steps at which only the noising counts.
  void noise_at(const Tensor& t, const Tensor& q_table, const Tensor& x0) {
    args.steps.steps = at.emplace(t, q_table, 2, x0);
    args.steps.reverse = false;
  }

  void reverse_at(const Tensor& t, const Tensor& p_table, const Tensor& x0, Variance variance) {
    args.steps.steps = at.emplace(t, p_table, kRows, x0);
    args.steps.variance = variance;
    args.steps.reverse = true;
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

  SumGradient of_sum(const Tensor& grad, double scale, const std::optional<Tensor>& weight, const char* name) {
    return {tensors.per_sample(grad, name), tensors.dtype == Dtype::f64, scale, weights(weight)};
  }

  const double* weights(const std::optional<Tensor>& weight) {
    return weight.has_value() ? tensors.doubles(*weight, "weight") : nullptr;
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
  Loss loss = mse_of(model_out, x0, t, table, noise, seed, offset, prediction);
  SampleSums how = {};
  how.weight = loss.weights(weight);
  return loss.tensors.sum_samples<1>(
      [&](const SampleSums& sums, const Range& range) { loops().mse(loss.args, sums, range); }, loss.mean(), how)[0];
}

Tensor diffusion_mse_backward(const Tensor& grad, const Tensor& model_out, const Tensor& x0, const Tensor& t,
                              const Tensor& table, std::optional<Tensor> weight, std::optional<Tensor> noise,
                              std::optional<Tensor> seed, int64_t offset, std::string prediction) {
  Loss loss = mse_of(model_out, x0, t, table, noise, seed, offset, prediction);
  loss.args.grad_mse = loss.of_sum(grad, loss.mean(), weight, "grad");
  Tensor dout;
  loss.gradient_into(model_out, dout);
  loss.tensors.run([&](const Range& range) { loops().mse_backward(loss.args, range); }, kGrainDrawn);
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
      [&](const SampleSums& sums, const Range& range) { loops().vb(loss.args, sums, range); }, loss.bits())[0];
}

Tensor vb_terms_backward(const Tensor& grad, const Tensor& model_out, const Tensor& x0, const Tensor& x_t,
                         const Tensor& t, const Tensor& table, std::string prediction, std::string variance,
                         std::optional<double> clip) {
  Loss loss = vb_of(model_out, x0, x_t, t, table, prediction, variance, clip);
  loss.args.grad_vb = loss.of_sum(grad, loss.bits(), {}, "grad");
  Tensor dout;
  loss.gradient_into(model_out, dout);
  loss.tensors.run([&](const Range& range) { loops().vb_backward(loss.args, range); }, kGrainDrawn);
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
  Loss loss = hybrid_of(model_out, x0, t, table, noise, seed, offset, prediction, variance);
  SampleSums how = {};
  how.weight = loss.weights(weight);  // of the first sum
  const auto [mse, vb] = loss.tensors.sum_samples<2>(
      [&](const SampleSums& sums, const Range& range) { loops().hybrid(loss.args, sums, range); },
      {loss.mean(), loss.bits()}, how);
  return {mse, vb};
}

Tensor hybrid_terms_backward(const Tensor& grad_mse, const Tensor& grad_vb, const Tensor& model_out, const Tensor& x0,
                             const Tensor& t, const Tensor& table, std::optional<Tensor> weight,
                             std::optional<Tensor> noise, std::optional<Tensor> seed, int64_t offset,
                             std::string prediction, std::string variance, bool frozen_mean) {
  Loss loss = hybrid_of(model_out, x0, t, table, noise, seed, offset, prediction, variance);
  loss.args.grad_mse = loss.of_sum(grad_mse, loss.mean(), weight, "grad_mse");
  loss.args.grad_vb = loss.of_sum(grad_vb, loss.bits(), {}, "grad_vb");
  loss.args.frozen_mean = frozen_mean;
  Tensor dout;
  loss.gradient_into(model_out, dout);
  loss.tensors.run([&](const Range& range) { loops().hybrid_backward(loss.args, range); }, kGrainDrawn);
  return dout;
}

Tensor prior_bound(const Tensor& x0, double abar) {
  Loss loss(x0, "x0");
  const SquareSum args = {loss.args.dtype, loss.args.x0, {}, loss.args.inner, {}};
  // KL(N(sqrt(abar) x0, 1 - abar) || N(0, 1)) = (abar x0^2 - abar - ln(1 - abar)) / 2
  SampleSums how = {};
  how.shift = (-abar - std::log1p(-abar)) / (2 * kLn2);
  return loss.tensors.sum_samples<1>(
      [&](const SampleSums& sums, const Range& range) { loops().square(args, sums, range); }, abar / 2 * loss.bits(),
      how)[0];
}

Tensor prior_bound_backward(const Tensor& grad, const Tensor& x0, double abar) {
  Loss loss(x0, "x0");
  Tensor dx;
  const SquareSum args = {loss.args.dtype, loss.args.x0, loss.tensors.out(dx), loss.args.inner,
                          loss.of_sum(grad, abar / 2 * loss.bits(), {}, "grad")};
  loss.tensors.run([&](const Range& range) { loops().square_backward(args, range); });
  return dx;
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, DGM_KEY, m) {
  m.impl("diffusion_mse", TORCH_BOX(&dgm::diffusion_mse));
  m.impl("diffusion_mse_backward", TORCH_BOX(&dgm::diffusion_mse_backward));
  m.impl("vb_terms", TORCH_BOX(&dgm::vb_terms));
  m.impl("vb_terms_backward", TORCH_BOX(&dgm::vb_terms_backward));
  m.impl("hybrid_terms", TORCH_BOX(&dgm::hybrid_terms));
  m.impl("hybrid_terms_backward", TORCH_BOX(&dgm::hybrid_terms_backward));
  m.impl("prior_bound", TORCH_BOX(&dgm::prior_bound));
  m.impl("prior_bound_backward", TORCH_BOX(&dgm::prior_bound_backward));
}
