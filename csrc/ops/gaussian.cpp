#include "../kernels/gaussian.h"

#include "operands.h"

namespace dgm {
namespace {

// The parameters of an op in the layout of mu, with the prior's where it has any.
template <class Args>
Args parameters(Operands& tensors, const Tensor& mu, const Tensor& logvar, const Tensor* mu_p = nullptr,
                const Tensor* logvar_p = nullptr) {
  Args args;
  args.dtype = tensors.dtype;
  args.inner = tensors.inner;
  args.mu = tensors.in(mu, "mu");
  args.logvar = tensors.in(logvar, "logvar");
  if (mu_p != nullptr) {
    args.mu_p = tensors.in(*mu_p, "mu_p");
    args.logvar_p = tensors.in(*logvar_p, "logvar_p");
  }
  return args;
}

void run(const GaussianForward& args, const Operands& tensors) {
  const GaussianLoops& loops = pick_gaussian_loops(level());
  tensors.run([&](const Range& range) { loops.forward(args, range); }, kGrainDrawn);
}

void run(const GaussianBackward& args, const Operands& tensors) {
  const GaussianLoops& loops = pick_gaussian_loops(level());
  tensors.run([&](const Range& range) { loops.backward(args, range); }, kGrainDrawn);
}

Tensor run_summed(const GaussianForward& args, const Operands& tensors) {
  const GaussianLoops& loops = pick_gaussian_loops(level());
  return tensors.sum_samples<1>(
      [&](const SampleSums& sums, const Range& range) { loops.forward_sums(args, sums, range); })[0];
}

Tensor gaussian_rsample(const Tensor& mu, const Tensor& logvar, std::optional<Tensor> noise, std::optional<Tensor> seed,
                        int64_t offset) {
  Operands tensors(mu);
  GaussianForward args = parameters<GaussianForward>(tensors, mu, logvar);
  args.noise = tensors.noise(noise, seed, offset);
  Tensor z;
  args.z = tensors.out(z);
  run(args, tensors);
  return z;
}

Tensor gaussian_rsample_backward(const Tensor& grad, const Tensor& logvar, std::optional<Tensor> noise,
                                 std::optional<Tensor> seed, int64_t offset) {
  Operands tensors(logvar);
  GaussianBackward args = parameters<GaussianBackward>(tensors, logvar, logvar);  // mu plays no part
  args.noise = tensors.noise(noise, seed, offset);
  args.grad_z = tensors.in(grad, "grad");
  Tensor dlogvar;
  args.dlogvar = tensors.out(dlogvar);
  run(args, tensors);
  return dlogvar;
}

Tensor kl_each(const Tensor& mu, const Tensor& logvar, const Tensor* mu_p, const Tensor* logvar_p) {
  Operands tensors(mu);
  GaussianForward args = parameters<GaussianForward>(tensors, mu, logvar, mu_p, logvar_p);
  Tensor kl;
  args.kl = tensors.out(kl);
  run(args, tensors);
  return kl;
}

Tensor kl_sample(const Tensor& mu, const Tensor& logvar, const Tensor* mu_p, const Tensor* logvar_p) {
  Operands tensors(mu);
  return run_summed(parameters<GaussianForward>(tensors, mu, logvar, mu_p, logvar_p), tensors);
}

Tensor gaussian_kl(const Tensor& mu, const Tensor& logvar) { return kl_each(mu, logvar, nullptr, nullptr); }

Tensor gaussian_kl_between(const Tensor& mu, const Tensor& logvar, const Tensor& mu_p, const Tensor& logvar_p) {
  return kl_each(mu, logvar, &mu_p, &logvar_p);
}

Tensor gaussian_kl_sample(const Tensor& mu, const Tensor& logvar) { return kl_sample(mu, logvar, nullptr, nullptr); }

Tensor gaussian_kl_between_sample(const Tensor& mu, const Tensor& logvar, const Tensor& mu_p, const Tensor& logvar_p) {
  return kl_sample(mu, logvar, &mu_p, &logvar_p);
}

// The gradient of a KL divergence: [N] or like mu.
void set_grad_kl(GaussianBackward& args, const Tensor& grad, const Tensor& mu, Operands& tensors) {
  if (grad.dim() == 1 && (mu.dim() != 1 || grad.scalar_type() == tensors.sum_type()))
    args.grad_kl_sample = tensors.per_sample(grad, "grad");
  else
    args.grad_kl = tensors.in(grad, "grad");
}

std::tuple<Tensor, Tensor> gaussian_kl_backward(const Tensor& grad, const Tensor& mu, const Tensor& logvar) {
  Operands tensors(mu);
  GaussianBackward args = parameters<GaussianBackward>(tensors, mu, logvar);
  set_grad_kl(args, grad, mu, tensors);
  Tensor dmu, dlogvar;
  args.dmu = tensors.out(dmu);
  args.dlogvar = tensors.out(dlogvar);
  run(args, tensors);
  return {dmu, dlogvar};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gaussian_kl_between_backward(const Tensor& grad, const Tensor& mu,
                                                                        const Tensor& logvar, const Tensor& mu_p,
                                                                        const Tensor& logvar_p) {
  Operands tensors(mu);
  GaussianBackward args = parameters<GaussianBackward>(tensors, mu, logvar, &mu_p, &logvar_p);
  set_grad_kl(args, grad, mu, tensors);
  Tensor dmu, dlogvar, dmu_p, dlogvar_p;
  args.dmu = tensors.out(dmu);
  args.dlogvar = tensors.out(dlogvar);
  args.dmu_p = tensors.out(dmu_p);
  args.dlogvar_p = tensors.out(dlogvar_p);
  run(args, tensors);
  return {dmu, dlogvar, dmu_p, dlogvar_p};
}

std::tuple<Tensor, Tensor> gaussian_rsample_kl(const Tensor& mu, const Tensor& logvar, std::optional<Tensor> noise,
                                               std::optional<Tensor> seed, int64_t offset) {
  Operands tensors(mu);
  GaussianForward args = parameters<GaussianForward>(tensors, mu, logvar);
  args.noise = tensors.noise(noise, seed, offset);
  Tensor z;
  args.z = tensors.out(z);
  const Tensor kl = run_summed(args, tensors);
  return {z, kl};
}

std::tuple<Tensor, Tensor> gaussian_rsample_kl_backward(std::optional<Tensor> grad_z, std::optional<Tensor> grad_kl,
                                                        const Tensor& mu, const Tensor& logvar,
                                                        std::optional<Tensor> noise, std::optional<Tensor> seed,
                                                        int64_t offset) {
  require(grad_z.has_value() || grad_kl.has_value(), "grad_z, grad_kl: expected at least one of them");
  Operands tensors(mu);
  GaussianBackward args = parameters<GaussianBackward>(tensors, mu, logvar);
  args.noise = tensors.noise(noise, seed, offset);
  if (grad_z.has_value()) args.grad_z = tensors.in(*grad_z, "grad_z");
  if (grad_kl.has_value()) args.grad_kl_sample = tensors.per_sample(*grad_kl, "grad_kl");
  Tensor dmu, dlogvar;
  args.dmu = tensors.out(dmu);
  args.dlogvar = tensors.out(dlogvar);
  if (!grad_kl.has_value()) torch::stable::copy_(dmu, *grad_z);  // the loop of rsample has no dmu
  run(args, tensors);
  return {dmu, dlogvar};
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, DGM_KEY, m) {
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
