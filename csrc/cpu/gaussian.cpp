#include "gaussian_loops.h"
#include "tensors.h"

namespace dgm {
namespace {

// Parameters of an op, dense in the layout of mu, with the prior's where it has any; keeps dense copies alive.
struct Parameters {
  MemoryFormat layout;
  Tensor mu, logvar, mu_p, logvar_p, noise;
  Gaussian in;

  Parameters(const Tensor& mu_, const Tensor& logvar_) : layout(layout_of(mu_)) {
    require_alike(logvar_, mu_, "logvar");
    mu = dense(mu_, layout);
    logvar = dense(logvar_, layout);
    in.dtype = dtype_of(mu.scalar_type());
    in.mu = mu.const_data_ptr();
    in.logvar = logvar.const_data_ptr();
    in.inner = inner_of(mu);
  }

  Parameters(const Tensor& mu_, const Tensor& logvar_, const Tensor& mu_p_, const Tensor& logvar_p_)
      : Parameters(mu_, logvar_) {
    require_alike(mu_p_, mu_, "mu_p");
    require_alike(logvar_p_, mu_, "logvar_p");
    mu_p = dense(mu_p_, layout);
    logvar_p = dense(logvar_p_, layout);
    in.mu_p = mu_p.const_data_ptr();
    in.logvar_p = logvar_p.const_data_ptr();
  }

  void draw(const std::optional<Tensor>& given, const std::optional<Tensor>& seed, int64_t offset) {
    in.noise = noise_of(mu, layout, given, seed, offset, noise);
  }

  Tensor empty() const { return empty_dense(mu, layout, mu.scalar_type()); }
};

void run(const GaussianForward& args, int64_t numel) {
  if (numel == 0) return;
  const int64_t inner = args.in.inner, parts = (inner + kPart - 1) / kPart;
  const int64_t grain = kGrainDrawn / (inner < kPart ? inner : kPart) + 1;
  const GaussianLoops& loops = pick_gaussian_loops(level());
  torch::stable::parallel_for(0, numel / inner * parts, grain,
                              [&](int64_t begin, int64_t end) { loops.forward(args, begin, end); });
}

void run(const GaussianBackward& args, int64_t numel) {
  const GaussianLoops& loops = pick_gaussian_loops(level());
  torch::stable::parallel_for(0, numel, kGrainDrawn,
                              [&](int64_t begin, int64_t end) { loops.backward(args, begin, end); });
}

// Runs a forward pass that sums KL per sample: parts of each sample first, then the parts in order.
Tensor run_summed(GaussianForward& args, const Tensor& mu) {
  require(mu.dim() >= 1, "mu: expected a tensor [N, ...]");
  const int64_t samples = mu.size(0), parts = (args.in.inner + kPart - 1) / kPart;
  std::vector<double> sums(samples * parts);
  args.kl_sums = sums.data();
  run(args, mu.numel());
  Tensor kl = empty_samples(mu, compute_type(mu.scalar_type()));
  void* data = kl.mutable_data_ptr();
  for (int64_t n = 0; n < samples; ++n) {
    double sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += sums[n * parts + part];
    if (args.in.dtype == Dtype::f64)
      ((double*)data)[n] = sum;
    else
      ((float*)data)[n] = (float)sum;
  }
  return kl;
}

Tensor gaussian_rsample(const Tensor& mu, const Tensor& logvar, std::optional<Tensor> noise, std::optional<Tensor> seed,
                        int64_t offset) {
  Parameters p(mu, logvar);
  p.draw(noise, seed, offset);
  Tensor z = p.empty();
  GaussianForward args;
  args.in = p.in;
  args.z = z.mutable_data_ptr();
  run(args, mu.numel());
  return z;
}

Tensor gaussian_rsample_backward(const Tensor& grad, const Tensor& logvar, std::optional<Tensor> noise,
                                 std::optional<Tensor> seed, int64_t offset) {
  Parameters p(logvar, logvar);  // mu plays no part
  p.draw(noise, seed, offset);
  require_alike(grad, logvar, "grad");
  const Tensor g = dense(grad, p.layout);
  Tensor dlogvar = p.empty();
  GaussianBackward args;
  args.in = p.in;
  args.grad_z = g.const_data_ptr();
  args.dlogvar = dlogvar.mutable_data_ptr();
  run(args, logvar.numel());
  return dlogvar;
}

Tensor kl_each(const Parameters& p) {
  Tensor kl = p.empty();
  GaussianForward args;
  args.in = p.in;
  args.kl = kl.mutable_data_ptr();
  run(args, p.mu.numel());
  return kl;
}

Tensor gaussian_kl(const Tensor& mu, const Tensor& logvar) { return kl_each(Parameters(mu, logvar)); }

Tensor gaussian_kl_between(const Tensor& mu, const Tensor& logvar, const Tensor& mu_p, const Tensor& logvar_p) {
  return kl_each(Parameters(mu, logvar, mu_p, logvar_p));
}

Tensor gaussian_kl_sample(const Tensor& mu, const Tensor& logvar) {
  const Parameters p(mu, logvar);
  GaussianForward args;
  args.in = p.in;
  return run_summed(args, mu);
}

Tensor gaussian_kl_between_sample(const Tensor& mu, const Tensor& logvar, const Tensor& mu_p, const Tensor& logvar_p) {
  const Parameters p(mu, logvar, mu_p, logvar_p);
  GaussianForward args;
  args.in = p.in;
  return run_summed(args, mu);
}

// The gradient of a KL divergence, like mu or [N], into args; returns what keeps it alive.
Tensor set_grad_kl(GaussianBackward& args, const Tensor& grad, const Parameters& p) {
  const ScalarType summed = compute_type(p.mu.scalar_type());
  args.grad_kl_per_sample = grad.dim() == 1 && (p.mu.dim() != 1 || grad.scalar_type() == summed);
  if (args.grad_kl_per_sample)
    require(p.mu.dim() >= 1 && grad.size(0) == p.mu.size(0) && grad.is_cpu() && grad.scalar_type() == summed,
            "grad: expected a CPU tensor [N] in float32 (float64 for float64), or one like mu");
  else
    require_alike(grad, p.mu, "grad");
  Tensor g = dense(grad, args.grad_kl_per_sample ? MemoryFormat::Contiguous : p.layout);
  args.grad_kl = g.const_data_ptr();
  return g;
}

std::tuple<Tensor, Tensor> gaussian_kl_backward(const Tensor& grad, const Tensor& mu, const Tensor& logvar) {
  const Parameters p(mu, logvar);
  Tensor dmu = p.empty(), dlogvar = p.empty();
  GaussianBackward args;
  args.in = p.in;
  const Tensor g = set_grad_kl(args, grad, p);
  args.dmu = dmu.mutable_data_ptr();
  args.dlogvar = dlogvar.mutable_data_ptr();
  run(args, mu.numel());
  return {dmu, dlogvar};
}

std::tuple<Tensor, Tensor, Tensor> gaussian_kl_between_backward(const Tensor& grad, const Tensor& mu,
                                                                const Tensor& logvar, const Tensor& mu_p,
                                                                const Tensor& logvar_p) {
  const Parameters p(mu, logvar, mu_p, logvar_p);
  Tensor dmu = p.empty(), dlogvar = p.empty(), dlogvar_p = p.empty();
  GaussianBackward args;
  args.in = p.in;
  const Tensor g = set_grad_kl(args, grad, p);
  args.dmu = dmu.mutable_data_ptr();
  args.dlogvar = dlogvar.mutable_data_ptr();
  args.dlogvar_p = dlogvar_p.mutable_data_ptr();
  run(args, mu.numel());
  return {dmu, dlogvar, dlogvar_p};
}

std::tuple<Tensor, Tensor> gaussian_rsample_kl(const Tensor& mu, const Tensor& logvar, std::optional<Tensor> noise,
                                               std::optional<Tensor> seed, int64_t offset) {
  Parameters p(mu, logvar);
  p.draw(noise, seed, offset);
  Tensor z = p.empty();
  GaussianForward args;
  args.in = p.in;
  args.z = z.mutable_data_ptr();
  Tensor kl = run_summed(args, mu);
  return {z, kl};
}

std::tuple<Tensor, Tensor> gaussian_rsample_kl_backward(const Tensor& grad_z, const Tensor& grad_kl, const Tensor& mu,
                                                        const Tensor& logvar, std::optional<Tensor> noise,
                                                        std::optional<Tensor> seed, int64_t offset) {
  Parameters p(mu, logvar);
  p.draw(noise, seed, offset);
  require_alike(grad_z, mu, "grad_z");
  const Tensor g = dense(grad_z, p.layout);
  Tensor dmu = p.empty(), dlogvar = p.empty();
  GaussianBackward args;
  args.in = p.in;
  const Tensor g_kl = set_grad_kl(args, grad_kl, p);
  args.grad_z = g.const_data_ptr();
  args.dmu = dmu.mutable_data_ptr();
  args.dlogvar = dlogvar.mutable_data_ptr();
  run(args, mu.numel());
  return {dmu, dlogvar};
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, CPU, m) {
  m.impl("gaussian_rsample", TORCH_BOX(&dgm::gaussian_rsample));
  m.impl("gaussian_rsample_backward", TORCH_BOX(&dgm::gaussian_rsample_backward));
  m.impl("gaussian_kl", TORCH_BOX(&dgm::gaussian_kl));
  m.impl("gaussian_kl_sample", TORCH_BOX(&dgm::gaussian_kl_sample));
  m.impl("gaussian_kl_backward", TORCH_BOX(&dgm::gaussian_kl_backward));
  m.impl("gaussian_kl_between", TORCH_BOX(&dgm::gaussian_kl_between));
  m.impl("gaussian_kl_between_sample", TORCH_BOX(&dgm::gaussian_kl_between_sample));
  m.impl("gaussian_kl_between_backward", TORCH_BOX(&dgm::gaussian_kl_between_backward));
  m.impl("gaussian_rsample_kl", TORCH_BOX(&dgm::gaussian_rsample_kl));
  m.impl("gaussian_rsample_kl_backward", TORCH_BOX(&dgm::gaussian_rsample_kl_backward));
}
