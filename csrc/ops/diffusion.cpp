#include "../kernels/diffusion.h"

#include "operands.h"
#include "schedule.h"

namespace dgm {
namespace {

void run_q_sample(const Tensor& x0, const Tensor& t, const Tensor& table, const std::optional<Tensor>& noise,
                  const std::optional<Tensor>& seed, int64_t offset, Target target, Tensor& x_t, Tensor& wanted) {
  Operands tensors(x0);
  const Steps steps(t, table, 2, x0);
  QSample args;
  args.dtype = tensors.dtype;
  args.noise = tensors.noise(noise, seed, offset);
  args.x0 = tensors.in(x0, "x0");
  args.x_t = tensors.out(x_t);
  args.target = target;
  if (target != Target::none) args.wanted = tensors.out(wanted);
  args.inner = tensors.inner;
  args.steps = steps;
  const DiffusionLoops& loops = pick_diffusion_loops(level());
  tensors.run([&](const Range& range) { loops.q_sample(args, range); }, grain_of(args.noise));
}

Tensor q_sample(const Tensor& x0, const Tensor& t, const Tensor& table, std::optional<Tensor> noise,
                std::optional<Tensor> seed, int64_t offset) {
  Tensor x_t, wanted;
  run_q_sample(x0, t, table, noise, seed, offset, Target::none, x_t, wanted);
  return x_t;
}

std::tuple<Tensor, Tensor> q_sample_target(const Tensor& x0, const Tensor& t, const Tensor& table,
                                           std::optional<Tensor> noise, std::optional<Tensor> seed, int64_t offset,
                                           std::string target) {
  require(target == "eps" || target == "v", "target: expected eps or v");
  Tensor x_t, wanted;
  run_q_sample(x0, t, table, noise, seed, offset, target == "v" ? Target::v : Target::eps, x_t, wanted);
  return {x_t, wanted};
}

Tensor q_sample_backward(const Tensor& grad, const Tensor& t, const Tensor& table, int64_t row) {
  require(row == 0 || row == 1, "row: expected 0 or 1");
  Operands tensors(grad);
  const Steps steps(t, table, 2, grad);
  Tensor out;
  const Scale args = {tensors.dtype, tensors.in(grad, "grad"), tensors.out(out), tensors.inner, steps, (int)row};
  const DiffusionLoops& loops = pick_diffusion_loops(level());
  tensors.run([&](const Range& range) { loops.scale(args, range); });
  return out;
}

Posterior posterior_of(Operands& tensors, const Steps& steps) {
  Posterior args;
  args.dtype = tensors.dtype;
  args.inner = tensors.inner;
  args.steps = steps;
  return args;
}

Tensor q_posterior(const Tensor& x0, const Tensor& x_t, const Tensor& t, const Tensor& table) {
  Operands tensors(x0);
  const Steps steps(t, table, kRows, x0);
  Posterior args = posterior_of(tensors, steps);
  Tensor mean;
  args.x0 = tensors.in(x0, "x0");
  args.x = tensors.in(x_t, "x_t");
  args.mean = tensors.out(mean);
  const DiffusionLoops& loops = pick_diffusion_loops(level());
  tensors.run([&](const Range& range) { loops.posterior(args, range); });
  return mean;
}

std::tuple<Tensor, Tensor> q_posterior_backward(const Tensor& grad, const Tensor& x0, const Tensor& x_t,
                                                const Tensor& t, const Tensor& table) {
  Operands tensors(x0);
  const Steps steps(t, table, kRows, x0);
  Posterior args = posterior_of(tensors, steps);
  require_alike(x_t, x0, "x_t");
  Tensor dx0, dx;
  args.grad = tensors.in(grad, "grad");
  args.dx0 = tensors.out(dx0);
  args.dx = tensors.out(dx);
  const DiffusionLoops& loops = pick_diffusion_loops(level());
  tensors.run([&](const Range& range) { loops.posterior_backward(args, range); });
  return {dx0, dx};
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, DGM_KEY, m) {
  m.impl("q_sample", TORCH_BOX(&dgm::q_sample));
  m.impl("q_sample_target", TORCH_BOX(&dgm::q_sample_target));
  m.impl("q_sample_backward", TORCH_BOX(&dgm::q_sample_backward));
  m.impl("q_posterior", TORCH_BOX(&dgm::q_posterior));
  m.impl("q_posterior_backward", TORCH_BOX(&dgm::q_posterior_backward));
}
