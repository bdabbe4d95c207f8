#include <cmath>

#include "adversarial_loops.h"
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

// A number as a tensor without dimensions, in the compute dtype.
Tensor scalar(double value, Dtype dtype) {
  const int64_t none = 0;
  AtenTensorHandle handle;
  const ScalarType type = dtype == Dtype::f64 ? ScalarType::Double : ScalarType::Float;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(0, &none, &none,
                                                  torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  Tensor x(handle);
  if (dtype == Dtype::f64)
    *(double*)x.mutable_data_ptr() = value;
  else
    *(float*)x.mutable_data_ptr() = (float)value;
  return x;
}

double number(const Tensor& grad, Dtype dtype, const char* name) {
  if (grad.numel() != 1 || dtype_of(grad.scalar_type()) != (dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32) ||
      !grad.is_cpu())
    throw std::invalid_argument(std::string(name) +
                                ": expected a CPU tensor of one element in float32 (float64 for float64)");
  return dtype == Dtype::f64 ? *grad.const_data_ptr<double>() : *grad.const_data_ptr<float>();
}

// The mean losses of the discriminator and of the generator; without scores of real samples, the generator's alone.
std::array<double, 2> mean_losses(const Tensor* real, const Tensor& fake, const std::string& kind) {
  require(fake.is_cpu(), "logits_fake: expected a CPU tensor");
  if (real != nullptr)
    require(real->is_cpu() && real->scalar_type() == fake.scalar_type(),
            "logits_real: expected a CPU tensor of the dtype of logits_fake");
  const Tensor y = dense(fake, layout_of(fake)), x = real == nullptr ? y : dense(*real, layout_of(*real));
  GanLoss args;
  args.dtype = dtype_of(fake.scalar_type());
  args.kind = kind_of(kind);
  args.real = x.const_data_ptr();
  args.fake = y.const_data_ptr();
  args.real_count = real == nullptr ? 0 : x.numel();
  args.fake_count = y.numel();
  const int64_t real_parts = (args.real_count + kPart - 1) / kPart;
  const int64_t parts = real_parts + (args.fake_count + kPart - 1) / kPart;
  std::vector<double> sums(2 * parts);
  args.sums = sums.data();
  torch::stable::parallel_for(0, parts, kGrainDrawn / kPart,
                              [&](int64_t begin, int64_t end) { loops().gan_sums(args, begin, end); });
  double by_real = 0, by_fake = 0, generator = 0;
  for (int64_t part = 0; part < real_parts; ++part) by_real += sums[2 * part];
  for (int64_t part = real_parts; part < parts; ++part) {
    by_fake += sums[2 * part];
    generator += sums[2 * part + 1];
  }
  return {by_real / (double)args.real_count + by_fake / (double)args.fake_count, generator / (double)args.fake_count};
}

Tensor slopes(const Tensor& scores, const std::string& kind, bool real, double by_d, double by_g) {
  const MemoryFormat layout = layout_of(scores);
  const Tensor x = dense(scores, layout);
  Tensor out = empty_dense(scores, layout, scores.scalar_type());
  const double count = (double)x.numel();
  const GanSlopes args = {dtype_of(scores.scalar_type()), kind_of(kind), x.const_data_ptr(), real,
                          out.mutable_data_ptr(),         by_d / count,  by_g / count};
  torch::stable::parallel_for(0, x.numel(), kGrainDrawn,
                              [&](int64_t begin, int64_t end) { loops().gan_slopes(args, begin, end); });
  return out;
}

std::tuple<Tensor, Tensor> gan_loss(const Tensor& logits_real, const Tensor& logits_fake, std::string kind) {
  const auto [d, g] = mean_losses(&logits_real, logits_fake, kind);
  const Dtype dtype = dtype_of(logits_fake.scalar_type());
  return {scalar(d, dtype), scalar(g, dtype)};
}

std::tuple<Tensor, Tensor> gan_loss_backward(std::optional<Tensor> grad_d, std::optional<Tensor> grad_g,
                                             const Tensor& logits_real, const Tensor& logits_fake, std::string kind) {
  require(logits_fake.is_cpu(), "logits_fake: expected a CPU tensor");
  require(logits_real.is_cpu() && logits_real.scalar_type() == logits_fake.scalar_type(),
          "logits_real: expected a CPU tensor of the dtype of logits_fake");
  const Dtype dtype = dtype_of(logits_fake.scalar_type());
  const double by_d = grad_d.has_value() ? number(*grad_d, dtype, "grad_d") : 0;
  const double by_g = grad_g.has_value() ? number(*grad_g, dtype, "grad_g") : 0;
  return {slopes(logits_real, kind, true, by_d, 0), slopes(logits_fake, kind, false, by_d, by_g)};
}

Tensor gan_generator_loss(const Tensor& logits_fake, std::string kind) {
  return scalar(mean_losses(nullptr, logits_fake, kind)[1], dtype_of(logits_fake.scalar_type()));
}

Tensor gan_generator_loss_backward(const Tensor& grad, const Tensor& logits_fake, std::string kind) {
  require(logits_fake.is_cpu(), "logits_fake: expected a CPU tensor");
  return slopes(logits_fake, kind, false, 0, number(grad, dtype_of(logits_fake.scalar_type()), "grad"));
}

// Weights [N] in the compute dtype, given or drawn.
WeightSource weights_of(Operands& tensors, const std::optional<Tensor>& alpha, const std::optional<Tensor>& seed,
                        int64_t offset) {
  WeightSource source;
  if (alpha.has_value()) {
    source.given = tensors.per_sample(*alpha, "alpha");
    return source;
  }
  require(seed.has_value() && seed->is_cpu(), "seed: expected a CPU tensor where no alpha is given");
  require_drawable(*seed, offset);
  source.seed = (uint64_t)*seed->const_data_ptr<int64_t>();
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
  tensors.run([&](int64_t begin, int64_t end) { loops().interpolate(args, begin, end); });
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
    auto [dalpha] = tensors.sum_samples<1>([&](double* sums, int64_t all, int64_t begin, int64_t end) {
      loops().interpolate_backward_sums(args, sums, all, begin, end);
    });
    return {dx, dy, dalpha};
  }
  tensors.run([&](int64_t begin, int64_t end) { loops().interpolate_backward(args, begin, end); });
  return {dx, dy, torch::stable::new_zeros(x, {x.size(0)}, tensors.sum_type())};
}

// The norm of each sample, from sums of squares over its parts.
struct Squares {
  NormPenalty args;
  int64_t parts;             // of a sample
  std::vector<double> sums;  // of each part

  explicit Squares(const Operands& tensors, const Operand& grad)
      : args{tensors.dtype, grad.data, tensors.inner},
        parts((tensors.inner + kPart - 1) / kPart),
        sums(tensors.samples() * parts) {}

  void sum(int64_t begin, int64_t end) {  // parts
    loops().squares(args, sums.data(), begin, end);
  }

  void sum_all() {
    const int64_t elements = args.inner < kPart ? args.inner : kPart;  // of a part
    if (!sums.empty())
      torch::stable::parallel_for(0, (int64_t)sums.size(), kGrainRead / elements + 1,
                                  [&](int64_t begin, int64_t end) { sum(begin, end); });
  }

  double norm(int64_t sample) const {
    double square = 0;  // the parts in order
    for (int64_t part = 0; part < parts; ++part) square += sums[sample * parts + part];
    return std::sqrt(square);
  }
};

Tensor gradient_norm_penalty(const Tensor& grad, double target, bool one_sided) {
  require(grad.dim() >= 1, "grad: expected a tensor [N, ...]");
  Operands tensors(grad);
  Squares squares(tensors, tensors.in(grad, "grad"));
  squares.sum_all();
  Tensor penalty = empty_samples(grad, tensors.sum_type());
  void* data = penalty.mutable_data_ptr();
  for (int64_t n = 0; n < tensors.samples(); ++n) {
    const double value = norm_penalty(squares.norm(n), target, one_sided);
    if (tensors.dtype == Dtype::f64)
      ((double*)data)[n] = value;
    else
      ((float*)data)[n] = (float)value;
  }
  return penalty;
}

Tensor gradient_norm_penalty_backward(const Tensor& grad_penalty, const Tensor& grad, double target, bool one_sided) {
  require(grad.dim() >= 1, "grad: expected a tensor [N, ...]");
  Operands tensors(grad);
  Tensor out;
  const Operand g = tensors.in(grad, "grad");
  const void* upstream = tensors.per_sample(grad_penalty, "grad_penalty");
  Squares squares(tensors, g);
  std::vector<double> factor(tensors.samples());
  const NormPenaltyBackward args = {tensors.dtype, g, tensors.out(out), tensors.inner, factor.data()};
  const auto set_factors = [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const double by_penalty =
          tensors.dtype == Dtype::f64 ? ((const double*)upstream)[n] : ((const float*)upstream)[n];
      factor[n] = by_penalty * norm_penalty_slope(squares.norm(n), target, one_sided);
    }
  };
  const int64_t samples = tensors.samples(), inner = tensors.inner;
  if (tensors.numel == 0) return out;
  // a sample (or a few small ones) at a time: it is read from memory once, and from the cache the second time
  const int64_t together = kGrainRead / inner + 1;
  if (samples >= 2 * torch::stable::get_num_threads() * together || inner <= kPart) {
    torch::stable::parallel_for(0, samples, together, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n += together) {
        const int64_t to = n + together < end ? n + together : end;
        squares.sum(n * squares.parts, to * squares.parts);
        set_factors(n, to);
        loops().scale_samples(args, n * inner, to * inner);
      }
    });
    return out;
  }
  squares.sum_all();
  set_factors(0, samples);
  tensors.run([&](int64_t begin, int64_t end) { loops().scale_samples(args, begin, end); });
  return out;
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, CPU, m) {
  m.impl("gan_loss", TORCH_BOX(&dgm::gan_loss));
  m.impl("gan_loss_backward", TORCH_BOX(&dgm::gan_loss_backward));
  m.impl("gan_generator_loss", TORCH_BOX(&dgm::gan_generator_loss));
  m.impl("gan_generator_loss_backward", TORCH_BOX(&dgm::gan_generator_loss_backward));
  m.impl("interpolate", TORCH_BOX(&dgm::interpolate));
  m.impl("interpolate_backward", TORCH_BOX(&dgm::interpolate_backward));
  m.impl("gradient_norm_penalty", TORCH_BOX(&dgm::gradient_norm_penalty));
  m.impl("gradient_norm_penalty_backward", TORCH_BOX(&dgm::gradient_norm_penalty_backward));
}
