#include "../kernels/reverse.h"

#include "operands.h"
#include "schedule.h"

namespace dgm {
namespace {

Solver solver_of(const std::string& name) {
  if (name == "ddpm") return Solver::ddpm;
  if (name == "ddim") return Solver::ddim;
  require(name == "dpm_solver", "solver: expected ddpm, ddim or dpm_solver");
  return Solver::dpm_solver;
}

// What all reverse ops take, in their order.
struct Arguments {
  const Tensor& model_out;
  const Tensor& x_t;
  const std::optional<Tensor>& x0_last;
  const std::optional<Tensor>& bound;
  const Tensor& t;
  const std::optional<Tensor>& t_next;
  const std::optional<Tensor>& t_last;
  const Tensor& table;
  const std::optional<Tensor>& noise;
  const std::optional<Tensor>& seed;
  int64_t offset;
  const std::string &solver, &prediction, &variance;
  double eta;
  std::optional<double> clip;
};

// A step, filled from the arguments; keeps what it points to alive.
struct Reverse {
  Operands tensors;
  ReverseBackward args;
  std::optional<Steps> at, next, last;
  bool halves;  // the model's output holds a variance too

  explicit Reverse(const Arguments& a) : tensors(a.x_t) {
    const Solver solver = solver_of(a.solver);
    const Variance variance = variance_of(a.variance);
    const bool learned = solver == Solver::ddpm && is_learned(variance);
    halves = learned || (solver != Solver::ddpm && a.x_t.dim() >= 2 && a.model_out.dim() == a.x_t.dim() &&
                         a.model_out.size(1) == 2 * a.x_t.size(1));
    args.dtype = tensors.dtype;
    args.inner = tensors.inner;
    args.x = tensors.in(a.x_t, "x_t");
    if (halves) {
      const auto both = tensors.in_halves(a.model_out, "model_out");
      args.out = both[0];
      if (learned) args.v = both[1];
    } else {
      args.out = tensors.in(a.model_out, "model_out");
    }
    if (a.x0_last.has_value()) {
      require(solver == Solver::dpm_solver, "x0_last: only dpm_solver takes it");
      args.last = tensors.in(*a.x0_last, "x0_last");
    }
    args.draws = solver == Solver::ddpm || (solver == Solver::ddim && a.eta != 0);
    if (args.draws) args.noise = tensors.noise(a.noise, a.seed, a.offset);
    set_steps(a, solver, variance);
  }

  int64_t grain() const { return args.draws ? grain_of(args.noise) : kGrainRead; }

 private:
  void set_steps(const Arguments& a, Solver solver, Variance variance) {
    SolverSteps& steps = args.steps;
    steps.solver = solver;
    steps.prediction = prediction_of(a.prediction);
    steps.variance = variance;
    steps.eta = a.eta;
    steps.steps = at.emplace(a.t, a.table, kRows, a.x_t);
    if (solver != Solver::ddpm) {
      require(a.t_next.has_value(), "t_prev: expected an int64 tensor [N]");
      steps.next = StepTable(next.emplace(*a.t_next, a.table, kRows, a.x_t, "t_prev", -1)).t;
    }
    if (a.x0_last.has_value()) {
      require(a.t_last.has_value(), "t_last: expected an int64 tensor [N] beside x0_last");
      steps.last = StepTable(last.emplace(*a.t_last, a.table, kRows, a.x_t, "t_last")).t;
    }
    if (a.bound.has_value()) steps.bounds = tensors.doubles(*a.bound, "bound");
    steps.clips = steps.bounds != nullptr || a.clip.has_value();
    steps.clip = a.clip.value_or(0);
  }
};

void run_step(const Arguments& a, Tensor& next, Tensor* x0) {
  require(x0 != nullptr || !a.x0_last.has_value(), "x0_last: expected the op that also returns x0");
  Reverse step(a);
  step.args.next = step.tensors.out(next);
  if (x0 != nullptr) step.args.x0 = step.tensors.out(*x0);
  const ReverseLoops& loops = pick_reverse_loops(level());
  step.tensors.run([&](const Range& range) { loops.step(step.args, range); }, step.grain());
}

std::tuple<Tensor, Tensor, Tensor> run_backward(const Tensor& grad, const Tensor* grad_x0, const Arguments& a) {
  require(grad_x0 != nullptr || !a.x0_last.has_value(), "x0_last: expected the op that also returns x0");
  Reverse step(a);
  ReverseBackward& args = step.args;
  Tensor dout, dx, dlast;
  args.grad = step.tensors.in(grad, "grad");
  if (grad_x0 != nullptr) args.grad_x0 = step.tensors.in(*grad_x0, "grad_x0");
  if (step.halves) {
    const auto both = step.tensors.out_halves(a.model_out, dout);
    args.dout = both[0];
    if (args.v.data != nullptr)
      args.dv = both[1];
    else
      torch::stable::zero_(dout);  // the half that plays no part
  } else {
    args.dout = step.tensors.out(dout);
  }
  args.dx = step.tensors.out(dx);
  if (args.last.data != nullptr)
    args.dlast = step.tensors.out(dlast);
  else
    dlast = empty_strided(a.x_t, {0}, {1}, a.x_t.scalar_type());
  const ReverseLoops& loops = pick_reverse_loops(level());
  step.tensors.run([&](const Range& range) { loops.backward(args, range); }, kGrainRead);
  return {dout, dx, dlast};
}

#define DGM_REVERSE_PARAMETERS                                                                            \
  const Tensor &model_out, const Tensor &x_t, std::optional<Tensor> x0_last, std::optional<Tensor> bound, \
      const Tensor &t, std::optional<Tensor> t_next, std::optional<Tensor> t_last, const Tensor &table,   \
      std::optional<Tensor> noise, std::optional<Tensor> seed, int64_t offset, std::string solver,        \
      std::string prediction, std::string variance, double eta, std::optional<double> clip
#define DGM_REVERSE_ARGUMENTS                                             \
  {model_out, x_t,  x0_last, bound,  t,          t_next,   t_last, table, \
   noise,     seed, offset,  solver, prediction, variance, eta,    clip}

Tensor reverse_step(DGM_REVERSE_PARAMETERS) {
  Tensor next;
  run_step(DGM_REVERSE_ARGUMENTS, next, nullptr);
  return next;
}

std::tuple<Tensor, Tensor> reverse_step_x0(DGM_REVERSE_PARAMETERS) {
  Tensor next, x0;
  run_step(DGM_REVERSE_ARGUMENTS, next, &x0);
  return {next, x0};
}

std::tuple<Tensor, Tensor, Tensor> reverse_step_backward(const Tensor& grad, DGM_REVERSE_PARAMETERS) {
  return run_backward(grad, nullptr, DGM_REVERSE_ARGUMENTS);
}

std::tuple<Tensor, Tensor, Tensor> reverse_step_x0_backward(const Tensor& grad, const Tensor& grad_x0,
                                                            DGM_REVERSE_PARAMETERS) {
  return run_backward(grad, &grad_x0, DGM_REVERSE_ARGUMENTS);
}

Tensor dynamic_bound(const Tensor& model_out, const Tensor& x_t, const Tensor& t, const Tensor& table,
                     std::string prediction, double quantile) {
  require(quantile >= 0 && quantile <= 1, "quantile: expected a number in [0, 1]");
  require(x_t.dim() >= 1, "x_t: expected a tensor [N, ...]");
  const std::optional<Tensor> none;
  const std::optional<Tensor> here(t);
  const std::string solver = "ddim", variance = "fixed_small";
  Reverse step({model_out, x_t, none, none, t, here, none, table, none, none, 0, solver, prediction, variance, 0, {}});
  const int64_t inner = step.tensors.inner;
  require(inner < (int64_t)1 << 31, "x_t: expected fewer than 2^31 elements a sample, which are counted in 32 bits");
  Tensor bound = empty_samples(x_t, ScalarType::Double);
  if (inner == 0) return torch::stable::fill_(bound, 1.0);
  const DynamicBound args = {
      step.args.dtype, step.args.out, step.args.x, inner, step.args.steps, quantile, (double*)bound.mutable_data_ptr()};
  const ReverseLoops& loops = pick_reverse_loops(level());
  step.tensors.run_samples([&](const Range& range) { loops.dynamic_bound(args, range); }, x_t.numel());
  return bound;
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, DGM_KEY, m) {
  m.impl("reverse_step", TORCH_BOX(&dgm::reverse_step));
  m.impl("reverse_step_x0", TORCH_BOX(&dgm::reverse_step_x0));
  m.impl("reverse_step_backward", TORCH_BOX(&dgm::reverse_step_backward));
  m.impl("reverse_step_x0_backward", TORCH_BOX(&dgm::reverse_step_x0_backward));
  m.impl("dynamic_bound", TORCH_BOX(&dgm::dynamic_bound));
}
