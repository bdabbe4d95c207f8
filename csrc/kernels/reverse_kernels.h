// Reverse diffusion steps: kernels. Included by a driver's translation unit.
#include "../math/exponential.h"
#include "../math/magnitude.h"
#include "reverse.h"
#include "work.h"

namespace dgm {
namespace DGM_LEVEL {

// SampleStep in the compute type.
template <class C>
struct ReverseStepIn {
  C x0_by_x, x0_by_out, bound, x0_scale, by_x, by_out, by_x0, by_last, sigma, logvar, logvar_by;

  DGM_HD static ReverseStepIn of(const SampleStep& s) {
    return {(C)s.x0_by_x, (C)s.x0_by_out, (C)s.bound, (C)s.x0_scale, (C)s.by_x,     (C)s.by_out,
            (C)s.by_x0,   (C)s.by_last,   (C)s.sigma, (C)s.logvar,   (C)s.logvar_by};
  }

  DGM_HD C raw_x0(C x, C out) const { return x0_of(x0_by_x, x0_by_out, x, out); }
  DGM_HD C clipped(C raw) const { return clamped(raw, bound) * x0_scale; }
  DGM_HD C learned_sigma(C v) const { return exp_of((C)0.5 * (logvar + logvar_by * v)); }
};

template <class T, int in, int out, int sums, bool draws>
struct ReverseKernel : KernelBase<T, in, out, sums, draws> {
  using C = compute_t<T>;
  using Sample = ReverseStepIn<C>;

  SolverSteps steps;

  DGM_HD Sample of(int64_t n) const { return Sample::of(steps.of(n)); }
};

// inputs: out, x, [v], [last]; outputs: next, [x0]
template <class T, bool draws, bool learned, bool second_order, bool gives_x0>
struct StepKernel : ReverseKernel<T, 2 + learned + second_order, 1 + gives_x0, 0, draws> {
  using C = compute_t<T>;

  DGM_HD void operator()(const ReverseStepIn<C>& s, In<C> in, Out<C> results, int from, int to) const {
    if (this->steps.clips)
      steps_of(Yes(), s, in, results, from, to);
    else
      steps_of(No(), s, in, results, from, to);
  }

 private:
  template <class Clips>
  DGM_HD static void steps_of(Clips clips, const ReverseStepIn<C>& s, In<C> in, Out<C> results, int from, int to) {
    const C *out = in[0], *x = in[1], *v = in[2 * learned], *last = in[2 * second_order],
            *eps = in[draws ? StepKernel::kIn : 0];
    C *next = results[0], *x0 = results[StepKernel::kOut - 1];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      const C raw = s.raw_x0(x[j], out[j]), kept = clips ? s.clipped(raw) : raw;
      C to_next = s.by_x * x[j] + s.by_out * out[j];
      if (clips) to_next = s.by_x * x[j] + s.by_x0 * kept;
      if (second_order) to_next += s.by_last * last[j];
      if (draws) to_next += (learned ? s.learned_sigma(v[j]) : s.sigma) * eps[j];
      if (gives_x0) x0[j] = kept;
      next[j] = to_next;
    }
  }
};

template <class T, bool draws, bool learned, bool second_order, bool gives_x0>
static void step_as(const ReverseStep& args, const Range& elements) {
  Work<StepKernel<T, draws, learned, second_order, gives_x0>> work = {};
  work.kernel.steps = args.steps;
  work.inner = args.inner;
  work.noise = args.noise;
  work.in[0] = args.out;
  work.in[1] = args.x;
  if (learned) work.in[2 * learned] = args.v;
  if (second_order) work.in[2 * second_order] = args.last;
  work.out[0] = args.next;
  if (gives_x0) work.out[gives_x0] = args.x0;
  run(work, elements);
}

template <class T>
static void step_of(const ReverseStep& args, const Range& elements) {
  const bool x0 = args.x0.data != nullptr;
  if (args.last.data != nullptr) return step_as<T, false, false, true, true>(args, elements);
  if (!args.draws)
    return x0 ? step_as<T, false, false, false, true>(args, elements)
              : step_as<T, false, false, false, false>(args, elements);
  if (args.v.data == nullptr)
    return x0 ? step_as<T, true, false, false, true>(args, elements)
              : step_as<T, true, false, false, false>(args, elements);
  return x0 ? step_as<T, true, true, false, true>(args, elements)
            : step_as<T, true, true, false, false>(args, elements);
}

static void step(const ReverseStep& args, const Range& elements) {
  DGM_DISPATCH(args.dtype, step_of<T>(args, elements));
}

// inputs: grad, out, x, [grad_x0], [v, noise]; outputs: dout, dx, [dlast], [dv]
template <class T, bool with_x0, bool learned, bool second_order>
struct StepGradient : ReverseKernel<T, 3 + with_x0 + learned, 2 + learned + second_order, 0, learned> {
  using C = compute_t<T>;

  DGM_HD void operator()(const ReverseStepIn<C>& s, In<C> in, Out<C> results, int from, int to) const {
    const C *grad = in[0], *out = in[1], *x = in[2], *grad_x0 = in[3 * with_x0], *v = in[StepGradient::kIn - 1],
            *eps = in[learned ? StepGradient::kIn : 0];
    C *dout = results[0], *dx = results[1], *dlast = results[2 * second_order], *dv = results[StepGradient::kOut - 1];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      const C raw = s.raw_x0(x[j], out[j]);
      C by_x0 = s.by_x0 * grad[j] + (with_x0 ? grad_x0[j] : (C)0);
      by_x0 = raw > s.bound || raw < -s.bound ? (C)0 : by_x0 * s.x0_scale;
      dout[j] = s.by_out * grad[j] + s.x0_by_out * by_x0;
      dx[j] = s.by_x * grad[j] + s.x0_by_x * by_x0;
      if (second_order) dlast[j] = s.by_last * grad[j];
      if (learned) dv[j] = (C)0.5 * s.logvar_by * (grad[j] * eps[j] * s.learned_sigma(v[j]));
    }
  }
};

template <class T, bool with_x0, bool learned, bool second_order>
static void backward_as(const ReverseBackward& args, const Range& elements) {
  using Kernel = StepGradient<T, with_x0, learned, second_order>;
  Work<Kernel> work = {};
  work.kernel.steps = args.steps;
  work.inner = args.inner;
  work.noise = args.noise;
  work.in[0] = args.grad;
  work.in[1] = args.out;
  work.in[2] = args.x;
  if (with_x0) work.in[3 * with_x0] = args.grad_x0;
  if (learned) work.in[Kernel::kIn - 1] = args.v;
  work.out[0] = args.dout;
  work.out[1] = args.dx;
  if (second_order) work.out[2 * second_order] = args.dlast;
  if (learned) work.out[Kernel::kOut - 1] = args.dv;
  run(work, elements);
}

template <class T>
static void backward_of(const ReverseBackward& args, const Range& elements) {
  const bool x0 = args.grad_x0.data != nullptr;
  if (args.dlast.data != nullptr) return backward_as<T, true, false, true>(args, elements);
  if (args.dv.data == nullptr)
    return x0 ? backward_as<T, true, false, false>(args, elements)
              : backward_as<T, false, false, false>(args, elements);
  return x0 ? backward_as<T, true, true, false>(args, elements) : backward_as<T, false, true, false>(args, elements);
}

static void backward(const ReverseBackward& args, const Range& elements) {
  DGM_DISPATCH(args.dtype, backward_of<T>(args, elements));
}

// |x0| before clipping, as terms.
template <class T>
struct X0Magnitudes : ReverseKernel<T, 2, 0, 1, false> {
  using C = compute_t<T>;

  DGM_HD void operator()(const ReverseStepIn<C>& s, In<C> in, Out<C> results, int from, int to) const {
    const C *out = in[0], *x = in[1];
    C* const magnitudes = results[0];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) magnitudes[j] = bits_as<C>(magnitude(s.raw_x0(x[j], out[j])));
  }
};

static void dynamic_bound(const DynamicBound& args, const Range& samples);  // of the driver

extern const ReverseLoops reverse_loops;
const ReverseLoops reverse_loops = {step, backward, dynamic_bound};

}  // namespace DGM_LEVEL
}  // namespace dgm
