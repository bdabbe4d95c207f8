#include <cmath>
#include <limits>

#include "operands.h"
#include "reverse_loops.h"
#include "schedule.h"

namespace dgm {
namespace {

enum class Solver { ddpm, ddim, dpm_solver };
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

SampleStep ddpm_step(const Steps& steps, int64_t t, Variance variance) {
  SampleStep step = {};
  step.by_x = steps.row(kMeanX)[t];
  step.by_x0 = steps.row(kMeanX0)[t];
  const auto [logvar, logvar_by] = logvar_at(steps, t, variance);
  step.logvar = t == 0 ? -std::numeric_limits<double>::infinity() : logvar;  // no noise at the end
  step.logvar_by = t == 0 ? 0 : logvar_by;
  step.sigma = std::exp(step.logvar / 2);
  return step;
}

// The steps of all samples. In sampling they are all the same one: that is worked out once.
std::vector<SampleStep> steps_of(const Arguments& a, Solver solver, Prediction prediction, Variance variance,
                                 int64_t samples, const double* bounds) {
  const Steps at(a.t, a.table, kRows, a.x_t);
  std::optional<Steps> next, last;
  if (solver != Solver::ddpm) {
    require(a.t_next.has_value(), "t_prev: expected an int64 tensor [N]");
    next.emplace(*a.t_next, a.table, kRows, a.x_t, "t_prev", -1);
  }
  if (a.x0_last.has_value()) {
    require(a.t_last.has_value(), "t_last: expected an int64 tensor [N] beside x0_last");
    last.emplace(*a.t_last, a.table, kRows, a.x_t, "t_last");
  }
  std::vector<SampleStep> steps(samples);
  for (int64_t n = 0; n < samples; ++n) {
    SampleStep& step = steps[n];
    const bool again = n > 0 && at.t[n] == at.t[n - 1] && (!next || next->t[n] == next->t[n - 1]) &&
                       (!last || last->t[n] == last->t[n - 1]);
    if (again) {
      step = steps[n - 1];
    } else {
      const NoiseLevel here = level_at(at, at.t[n]);
      if (solver == Solver::ddpm) {
        step = ddpm_step(at, at.t[n], variance);
      } else {
        const NoiseLevel there = level_at(at, next->t[n]);
        const Step taken = solver == Solver::ddim
                               ? ddim_step(here, there, a.eta)
                               : dpm_solver_step(here, there, level_at(at, last ? last->t[n] : 0), last.has_value());
        step = {};
        step.by_x = taken.by_x;
        step.by_x0 = taken.by_x0;
        step.by_last = taken.by_last;
        step.sigma = taken.sigma;
      }
      const ToX0 x0 = to_x0(prediction, here);
      step.x0_by_x = x0.by_x;
      step.x0_by_out = x0.by_out;
      if (bounds == nullptr && !a.clip.has_value()) {
        step.by_x += step.by_x0 * x0.by_x;
        step.by_out = step.by_x0 * x0.by_out;
        step.by_x0 = 0;
      }
    }
    step.bound = bounds != nullptr ? bounds[n] : a.clip.value_or(std::numeric_limits<double>::infinity());
    step.x0_scale = bounds != nullptr ? 1 / bounds[n] : 1;
  }
  return steps;
}

// A step, filled from the arguments; keeps what it points to alive.
struct Reverse {
  Operands tensors;
  ReverseBackward args;
  std::vector<SampleStep> steps;
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
    const double* bounds = nullptr;
    Tensor bound;
    if (a.bound.has_value()) {
      require(a.bound->scalar_type() == ScalarType::Double && a.bound->dim() == 1 &&
                  a.bound->size(0) == tensors.samples() && a.bound->is_cpu(),
              "bound: expected a float64 CPU tensor [N]");
      bound = dense(*a.bound, MemoryFormat::Contiguous);
      bounds = bound.const_data_ptr<double>();
    }
    args.clips = bounds != nullptr || a.clip.has_value();
    steps = steps_of(a, solver, prediction_of(a.prediction), variance, tensors.samples(), bounds);
    args.steps = steps.data();
  }

  int64_t grain() const { return args.draws ? grain_of(args.noise) : kGrainRead; }
};

void run_step(const Arguments& a, Tensor& next, Tensor* x0) {
  require(x0 != nullptr || !a.x0_last.has_value(), "x0_last: expected the op that also returns x0");
  Reverse step(a);
  step.args.next = step.tensors.out(next);
  if (x0 != nullptr) step.args.x0 = step.tensors.out(*x0);
  const ReverseLoops& loops = pick_reverse_loops(level());
  step.tensors.run([&](int64_t begin, int64_t end) { loops.step(step.args, begin, end); }, step.grain());
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
    dlast = torch::stable::empty({0}, a.x_t.scalar_type());
  const ReverseLoops& loops = pick_reverse_loops(level());
  step.tensors.run([&](int64_t begin, int64_t end) { loops.backward(args, begin, end); }, kGrainRead);
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
  const int64_t samples = step.tensors.samples(), inner = step.tensors.inner;
  require(inner < (int64_t)1 << 31, "x_t: expected fewer than 2^31 elements a sample, which are counted in 32 bits");
  Tensor bound = empty_samples(x_t, ScalarType::Double);
  double* const bounds = (double*)bound.mutable_data_ptr();
  if (inner == 0) {
    for (int64_t n = 0; n < samples; ++n) bounds[n] = 1;
    return bound;
  }
  const ReverseLoops& loops = pick_reverse_loops(level());
  torch::stable::parallel_for(0, samples, kGrainDrawn / inner + 1, [&](int64_t begin, int64_t end) {
    std::vector<double> scratch(inner + (1 << 13));  // enough for either compute type
    loops.quantile(step.args, quantile, bounds, scratch.data(), begin, end);
    for (int64_t n = begin; n < end; ++n) bounds[n] = bounds[n] < 1 ? 1 : bounds[n];  // a NaN stays one
  });
  return bound;
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, CPU, m) {
  m.impl("reverse_step", TORCH_BOX(&dgm::reverse_step));
  m.impl("reverse_step_x0", TORCH_BOX(&dgm::reverse_step_x0));
  m.impl("reverse_step_backward", TORCH_BOX(&dgm::reverse_step_backward));
  m.impl("reverse_step_x0_backward", TORCH_BOX(&dgm::reverse_step_x0_backward));
  m.impl("dynamic_bound", TORCH_BOX(&dgm::dynamic_bound));
}
