#include "diffusion_loops.h"
#include "tensors.h"

namespace dgm {
namespace {

// t as dense int64 [N] with every step in [0, steps)
Tensor checked_steps(const Tensor& t, const Tensor& x, int64_t steps) {
  require(x.dim() >= 1, "x0: expected a tensor [N, ...]");
  require(t.scalar_type() == ScalarType::Long && t.dim() == 1 && t.size(0) == x.size(0) && t.is_cpu(),
          "t: expected an int64 CPU tensor [N], one step per sample");
  Tensor dense_t = dense(t, MemoryFormat::Contiguous);
  const int64_t* values = dense_t.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < dense_t.numel(); ++i)
    if (values[i] < 0 || values[i] >= steps)
      throw std::out_of_range("t: expected steps in [0, " + std::to_string(steps) + "), got " +
                              std::to_string(values[i]));
  return dense_t;
}

Tensor checked_table(const Tensor& table) {
  require(table.scalar_type() == ScalarType::Double && table.dim() == 2 && table.size(0) == 2 && table.is_cpu(),
          "table: expected a float64 CPU tensor [2, T]");
  return dense(table, MemoryFormat::Contiguous);
}

void run_q_sample(const Tensor& x0, const Tensor& t, const Tensor& table, const std::optional<Tensor>& noise,
                  const std::optional<Tensor>& seed, int64_t offset, Target target, Tensor& x_t, Tensor& wanted) {
  const MemoryFormat layout = layout_of(x0);
  const Tensor rows = checked_table(table), x = dense(x0, layout);
  const int64_t steps = rows.size(1);
  const Tensor step = checked_steps(t, x0, steps);
  Tensor kept;
  QSample args;
  args.dtype = dtype_of(x0.scalar_type());
  args.noise = noise_of(x0, layout, noise, seed, offset, kept);
  args.x0 = x.const_data_ptr();
  x_t = empty_dense(x0, layout, x0.scalar_type());
  args.x_t = x_t.mutable_data_ptr();
  args.target = target;
  args.wanted = nullptr;
  if (target != Target::none) {
    wanted = empty_dense(x0, layout, x0.scalar_type());
    args.wanted = wanted.mutable_data_ptr();
  }
  args.inner = inner_of(x0);
  args.t = step.const_data_ptr<int64_t>();
  args.signal = rows.const_data_ptr<double>();
  args.sigma = args.signal + steps;
  const DiffusionLoops& loops = pick_diffusion_loops(level());
  torch::stable::parallel_for(0, x0.numel(), grain_of(args.noise),
                              [&](int64_t begin, int64_t end) { loops.q_sample(args, begin, end); });
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
  const MemoryFormat layout = layout_of(grad);
  const Tensor rows = checked_table(table), x = dense(grad, layout);
  const int64_t steps = rows.size(1);
  const Tensor step = checked_steps(t, grad, steps);
  Tensor out = empty_dense(grad, layout, grad.scalar_type());
  const Scale args = {dtype_of(grad.scalar_type()),   x.const_data_ptr(),
                      out.mutable_data_ptr(),         inner_of(grad),
                      step.const_data_ptr<int64_t>(), rows.const_data_ptr<double>() + row * steps};
  const DiffusionLoops& loops = pick_diffusion_loops(level());
  torch::stable::parallel_for(0, grad.numel(), kGrainRead,
                              [&](int64_t begin, int64_t end) { loops.scale(args, begin, end); });
  return out;
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, CPU, m) {
  m.impl("q_sample", TORCH_BOX(&dgm::q_sample));
  m.impl("q_sample_target", TORCH_BOX(&dgm::q_sample_target));
  m.impl("q_sample_backward", TORCH_BOX(&dgm::q_sample_backward));
}
