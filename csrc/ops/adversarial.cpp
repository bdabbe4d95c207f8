#include "../kernels/adversarial.h"

#include "operands.h"

namespace dgm {
namespace {

const AdversarialLoops& loops() { return pick_adversarial_loops(level()); }

GanKind kind_of(const std::string& kind) {
  if (kind == "minmax") return GanKind::minmax;
  if (kind == "nonsaturating") return GanKind::nonsaturating;
  if (kind == "least_squares") return GanKind::least_squares;
  if (kind == "wasserstein") return GanKind::wasserstein;
  if (kind == "hinge") return GanKind::hinge;
  throw std::invalid_argument("kind: expected minmax, nonsaturating, least_squares, wasserstein or hinge");
}

// The means of one loss or both on scores, without dimensions, in the compute type or another; `add`, a number in
// fp64, is added to the first.
template <int kSums>
std::array<Tensor, kSums> mean_losses(const Tensor& scores, Scores which, const std::string& kind,
                                      std::optional<ScalarType> type = {}, const Tensor* add = nullptr) {
  Operands tensors(scores);
  const GanLoss args = {tensors.dtype, kind_of(kind), which, tensors.in(scores, "logits"), tensors.numel};
  SampleSums how = {};
  if (add != nullptr) how.add = add->const_data_ptr<double>();
  std::array<double, kSums> scale;
  scale.fill(1.0 / (double)tensors.numel);
  return tensors.sum_all_in<kSums>(
      type.value_or(tensors.sum_type()),
      [&](const SampleSums& sums, const Range& range) { loops().gan_sums(args, sums, range); }, scale, how);
}

void require_scores(const Tensor& real, const Tensor& fake) {
  require(real.scalar_type() == fake.scalar_type() && is_beside(real, fake),
          "logits_real: expected a " DGM_DEVICE " tensor of the dtype of logits_fake, beside it");
}

// A gradient by a mean, as a number.
Scalar number(const Tensor& grad, const Tensor& scores, const char* name) {
  if (grad.numel() != 1 || grad.scalar_type() != compute_type(scores.scalar_type()) || !is_beside(grad, scores))
    throw std::invalid_argument(std::string(name) + ": expected a " DGM_DEVICE
                                                    " tensor of one element in float32 (float64 for float64)");
  return {grad.const_data_ptr()};
}

Tensor slopes(const Tensor& scores, const std::string& kind, bool real, Scalar by_d, Scalar by_g) {
  Operands tensors(scores);
  Tensor out;
  const GanSlopes args = {tensors.dtype,    kind_of(kind),  real, tensors.in(scores, "logits"),
                          tensors.out(out), scores.numel(), by_d, by_g};
  tensors.run([&](const Range& range) { loops().gan_slopes(args, range); }, kGrainDrawn);
  return out;
}

std::tuple<Tensor, Tensor> gan_loss(const Tensor& logits_real, const Tensor& logits_fake, std::string kind) {
  require_scores(logits_real, logits_fake);
  const auto [by_real] = mean_losses<1>(logits_real, Scores::real, kind, ScalarType::Double);  // the two may cancel
  const auto [d, g] = mean_losses<2>(logits_fake, Scores::fake, kind, {}, &by_real);
  return {d, g};
}

std::tuple<Tensor, Tensor> gan_loss_backward(std::optional<Tensor> grad_d, std::optional<Tensor> grad_g,
                                             const Tensor& logits_real, const Tensor& logits_fake, std::string kind) {
  require_scores(logits_real, logits_fake);
  const Scalar by_d = grad_d.has_value() ? number(*grad_d, logits_fake, "grad_d") : Scalar();
  const Scalar by_g = grad_g.has_value() ? number(*grad_g, logits_fake, "grad_g") : Scalar();
  return {slopes(logits_real, kind, true, by_d, {}), slopes(logits_fake, kind, false, by_d, by_g)};
}

Tensor gan_generator_loss(const Tensor& logits_fake, std::string kind) {
  return mean_losses<1>(logits_fake, Scores::generator, kind)[0];
}

Tensor gan_generator_loss_backward(const Tensor& grad, const Tensor& logits_fake, std::string kind) {
  return slopes(logits_fake, kind, false, {}, number(grad, logits_fake, "grad"));
}

// Weights [N] in the compute dtype, given or drawn.
WeightSource weights_of(Operands& tensors, const std::optional<Tensor>& alpha, const std::optional<Tensor>& seed,
                        int64_t offset) {
  WeightSource source;
  if (alpha.has_value()) {
    source.given = tensors.per_sample(*alpha, "alpha");
    return source;
  }
  require(seed.has_value() && is_here(*seed), "seed: expected a " DGM_DEVICE " tensor where no alpha is given");
  require_drawable(*seed, offset);
  source.seed = seed->const_data_ptr<int64_t>();
  source.first = (uint64_t)offset;
  return source;
}

Tensor interpolate(const Tensor& x, const Tensor& y, std::optional<Tensor> alpha, std::optional<Tensor> seed,
                   int64_t offset) {
  require(x.dim() >= 1, "x: expected a tensor [N, ...]");
  Operands tensors(x);
  Tensor out;
  Interpolate args;
  args.dtype = tensors.dtype;
  args.x = tensors.in(x, "x");
  args.y = tensors.in(y, "y");
  args.out = tensors.out(out);
  args.inner = tensors.inner;
  args.alpha = weights_of(tensors, alpha, seed, offset);
  tensors.run([&](const Range& range) { loops().interpolate(args, range); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> interpolate_backward(const Tensor& grad, const Tensor& x, const Tensor& y,
                                                        std::optional<Tensor> alpha, std::optional<Tensor> seed,
                                                        int64_t offset) {
  require(x.dim() >= 1, "x: expected a tensor [N, ...]");
  Operands tensors(x);
  Tensor dx, dy;
  InterpolateBackward args;
  args.dtype = tensors.dtype;
  args.grad = tensors.in(grad, "grad");
  args.x = tensors.in(x, "x");
  args.y = tensors.in(y, "y");
  args.dx = tensors.out(dx);
  args.dy = tensors.out(dy);
  args.inner = tensors.inner;
  args.alpha = weights_of(tensors, alpha, seed, offset);
  if (alpha.has_value()) {
    auto [dalpha] = tensors.sum_samples<1>(
        [&](const SampleSums& sums, const Range& range) { loops().interpolate_backward_sums(args, sums, range); });
    return {dx, dy, dalpha};
  }
  tensors.run([&](const Range& range) { loops().interpolate_backward(args, range); });
  return {dx, dy, torch::stable::new_zeros(x, {x.size(0)}, tensors.sum_type())};
}

Tensor gradient_norm_penalty(const Tensor& grad, double target, bool one_sided) {
  require(grad.dim() >= 1, "grad: expected a tensor [N, ...]");
  Operands tensors(grad);
  const NormPenalty args = {tensors.dtype, tensors.in(grad, "grad"), tensors.inner};
  SampleSums how = {};
  how.penalty = true;
  how.target = target;
  how.one_sided = one_sided;
  return tensors.sum_samples<1>([&](const SampleSums& sums, const Range& range) { loops().squares(args, sums, range); },
                                1, how)[0];
}

Tensor gradient_norm_penalty_backward(const Tensor& grad_penalty, const Tensor& grad, double target, bool one_sided) {
  require(grad.dim() >= 1, "grad: expected a tensor [N, ...]");
  Operands tensors(grad);
  Tensor out;
  const NormPenalty of_norm = {tensors.dtype, tensors.in(grad, "grad"), tensors.inner};
  SampleSums how = {};
  const Tensor squares = tensors.sum_samples_in<1>(
      ScalarType::Double, [&](const SampleSums& sums, const Range& range) { loops().squares(of_norm, sums, range); },
      {1}, how)[0];
  const NormPenaltyBackward args = {tensors.dtype,
                                    of_norm.grad,
                                    tensors.out(out),
                                    tensors.inner,
                                    tensors.per_sample(grad_penalty, "grad_penalty"),
                                    (const double*)squares.const_data_ptr(),
                                    target,
                                    one_sided};
  tensors.run([&](const Range& range) { loops().penalty_backward(args, range); });
  return out;
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, DGM_KEY, m) {
  m.impl("gan_loss", TORCH_BOX(&dgm::gan_loss));
  m.impl("gan_loss_backward", TORCH_BOX(&dgm::gan_loss_backward));
  m.impl("gan_generator_loss", TORCH_BOX(&dgm::gan_generator_loss));
  m.impl("gan_generator_loss_backward", TORCH_BOX(&dgm::gan_generator_loss_backward));
  m.impl("interpolate", TORCH_BOX(&dgm::interpolate));
  m.impl("interpolate_backward", TORCH_BOX(&dgm::interpolate_backward));
  m.impl("gradient_norm_penalty", TORCH_BOX(&dgm::gradient_norm_penalty));
  m.impl("gradient_norm_penalty_backward", TORCH_BOX(&dgm::gradient_norm_penalty_backward));
}
