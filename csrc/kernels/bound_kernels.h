// Training losses of diffusion models: kernels. Included by a driver's translation unit.
#include "../math/bound.h"
#include "bound.h"
#include "work.h"

namespace dgm {
namespace DGM_LEVEL {

// LossStep in the compute type, and the gradients by the sample's sums.
template <class C>
struct LossStepIn {
  C signal, sigma, x0_by_x, x0_by_out, error_by_out, mean_x0, mean_x, precision_q, logvar, logvar_by, gap, clip;
  C grad_mse, grad_vb;
  C outside;  // 0, or NaN where the step is outside the schedule: the residual of eps uses none of the above
  bool decodes;

  DGM_HD C raw_x0(C x, C out) const { return x0_of(x0_by_x, x0_by_out, x, out); }
  DGM_HD C clipped(C x0) const { return clamped(x0, clip); }
  DGM_HD C residual(Prediction prediction, C out, C x0, C eps) const {
    return out - target_of(prediction, signal, sigma, x0, eps) + outside;
  }
};

template <class T, int in, int out, int sums, bool draws>
struct LossKernel : KernelBase<T, in, out, sums, draws> {
  using C = compute_t<T>;
  using Sample = LossStepIn<C>;

  LossSteps steps;
  double clip;
  SumGradient grad_mse, grad_vb;

  DGM_HD Sample of(int64_t n) const {
    const LossStep s = steps.of(n);
    const double by_mse = grad_mse.grad == nullptr ? 0 : 2 * grad_mse.at(n);
    const double by_vb = grad_vb.grad == nullptr ? 0 : grad_vb.at(n);
    return {(C)s.signal,  (C)s.sigma,  (C)s.x0_by_x,     (C)s.x0_by_out, (C)s.error_by_out,
            (C)s.mean_x0, (C)s.mean_x, (C)s.precision_q, (C)s.logvar,    (C)s.logvar_by,
            (C)s.gap,     (C)clip,     (C)by_mse,        (C)by_vb,       s.signal == s.signal ? (C)0 : (C)s.signal,
            s.decodes};
  }
};

// Calls body with the prediction as a constant, so that its loops need not branch on it.
template <class Body>
static DGM_HD void for_prediction(Prediction prediction, const Body& body) {
  switch (prediction) {
    case Prediction::eps: return body(Constant<Prediction, Prediction::eps>());
    case Prediction::v: return body(Constant<Prediction, Prediction::v>());
    default: return body(Constant<Prediction, Prediction::x0>());
  }
}

// inputs: out, x0
template <class T>
struct Mse : LossKernel<T, 2, 0, 1, true> {
  using C = compute_t<T>;

  DGM_HD void operator()(const LossStepIn<C>& s, In<C> in, Out<C> results, int from, int to) const {
    const C *out = in[0], *x0 = in[1], *eps = in[2];
    C* const squares = results[0];
    for_prediction(this->steps.prediction, [&](auto prediction) {
      DGM_INDEPENDENT
      for (int j = from; j < to; ++j) {
        const C r = s.residual(prediction, out[j], x0[j], eps[j]);
        squares[j] = r * r;
      }
    });
  }
};

template <class T>
struct MseGradient : LossKernel<T, 2, 1, 0, true> {
  using C = compute_t<T>;

  DGM_HD void operator()(const LossStepIn<C>& s, In<C> in, Out<C> results, int from, int to) const {
    const C *out = in[0], *x0 = in[1], *eps = in[2];
    C* const dout = results[0];
    for_prediction(this->steps.prediction, [&](auto prediction) {
      DGM_INDEPENDENT
      for (int j = from; j < to; ++j) dout[j] = s.grad_mse * s.residual(prediction, out[j], x0[j], eps[j]);
    });
  }
};

// inputs: out, x0, x_t, [v]
template <class T, bool learned>
struct Vb : LossKernel<T, 3 + learned, 0, 1, false> {
  using C = compute_t<T>;

  DGM_HD void operator()(const LossStepIn<C>& s, In<C> in, Out<C> results, int from, int to) const {
    const C *out = in[0], *x0 = in[1], *x = in[2], *v = in[2 + learned];
    C* const nats = results[0];
    if (s.decodes) {
      DGM_IN_TURN
      for (int j = from; j < to; ++j) {
        const C mean = s.mean_x0 * s.clipped(s.raw_x0(x[j], out[j])) + s.mean_x * x[j];
        const C logvar = learned ? s.logvar + s.logvar_by * v[j] : s.logvar;
        nats[j] = discretized_gaussian_nll(x0[j], mean, (C)0.5 * logvar);
      }
      return;
    }
    const C fixed = exp_of(s.gap);
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      const C diff = s.mean_x0 * (x0[j] - s.clipped(s.raw_x0(x[j], out[j])));
      const C d = learned ? s.gap - s.logvar_by * v[j] : s.gap;
      nats[j] = vb_kl(diff, d, learned ? exp_of(d) : fixed, s.precision_q);
    }
  }
};

// the same inputs; outputs: dout, [dv]
template <class T, bool learned>
struct VbGradient : LossKernel<T, 3 + learned, 1 + learned, 0, false> {
  using C = compute_t<T>;

  DGM_HD void operator()(const LossStepIn<C>& s, In<C> in, Out<C> results, int from, int to) const {
    const C *out = in[0], *x0 = in[1], *x = in[2], *v = in[2 + learned], grad = s.grad_vb;
    C *const dout = results[0], *const dv = results[learned];
    const C by_out = s.mean_x0 * s.x0_by_out;
    if (s.decodes) {
      DGM_IN_TURN
      for (int j = from; j < to; ++j) {
        const C raw = s.raw_x0(x[j], out[j]), logvar = learned ? s.logvar + s.logvar_by * v[j] : s.logvar;
        C dmean, dlog_scale;
        discretized_gaussian_nll_grad(x0[j], s.mean_x0 * s.clipped(raw) + s.mean_x * x[j], (C)0.5 * logvar, dmean,
                                      dlog_scale);
        dout[j] = raw > s.clip || raw < -s.clip ? (C)0 : grad * by_out * dmean;
        if (learned) dv[j] = (C)0.5 * grad * s.logvar_by * dlog_scale;
      }
      return;
    }
    const C fixed = exp_of(s.gap);
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      const C raw = s.raw_x0(x[j], out[j]), d = learned ? s.gap - s.logvar_by * v[j] : s.gap;
      C ddiff, dlogvar;
      vb_kl_grad(s.mean_x0 * (x0[j] - s.clipped(raw)), d, learned ? exp_of(d) : fixed, s.precision_q, ddiff, dlogvar);
      dout[j] = raw > s.clip || raw < -s.clip ? (C)0 : -grad * by_out * ddiff;
      if (learned) dv[j] = grad * s.logvar_by * dlogvar;
    }
  }
};

// Squared error and bound from one draw of the noise: x_t and the predicted x_0 are never formed, and the error of
// x_0 is that of the prediction times a number, which cancels nothing. Inputs: out, x0, v.
template <class T>
struct Hybrid : LossKernel<T, 3, 0, 2, true> {
  using C = compute_t<T>;

  DGM_HD void operator()(const LossStepIn<C>& s, In<C> in, Out<C> results, int from, int to) const {
    const C *out = in[0], *x0 = in[1], *v = in[2], *eps = in[3];
    C *const squares = results[0], *const nats = results[1];
    const C by_r = s.mean_x0 * s.error_by_out;
    for_prediction(this->steps.prediction, [&](auto prediction) {
      if (s.decodes) {
        DGM_IN_TURN
        for (int j = from; j < to; ++j) {
          const C r = s.residual(prediction, out[j], x0[j], eps[j]);
          squares[j] = r * r;
          nats[j] = discretized_gaussian_nll(x0[j], s.mean_x0 * (x0[j] - s.error_by_out * r),
                                             (C)0.5 * (s.logvar + s.logvar_by * v[j]));
        }
        return;
      }
      DGM_INDEPENDENT
      for (int j = from; j < to; ++j) {
        const C r = s.residual(prediction, out[j], x0[j], eps[j]);
        squares[j] = r * r;
        const C d = s.gap - s.logvar_by * v[j];
        nats[j] = vb_kl(by_r * r, d, exp_of(d), s.precision_q);
      }
    });
  }
};

template <class T>
struct HybridGradient : LossKernel<T, 3, 2, 0, true> {
  using C = compute_t<T>;

  bool frozen_mean;

  DGM_HD void operator()(const LossStepIn<C>& s, In<C> in, Out<C> results, int from, int to) const {
    const C *out = in[0], *x0 = in[1], *v = in[2], *eps = in[3];
    C *const dout = results[0], *const dv = results[1];
    const bool frozen = frozen_mean;
    const C by_r = s.mean_x0 * s.error_by_out, to_mean = frozen ? (C)0 : s.grad_vb * by_r;
    for_prediction(this->steps.prediction, [&](auto prediction) {
      if (s.decodes) {
        DGM_IN_TURN
        for (int j = from; j < to; ++j) {
          const C r = s.residual(prediction, out[j], x0[j], eps[j]);
          C dmean, dlog_scale;
          discretized_gaussian_nll_grad(x0[j], s.mean_x0 * (x0[j] - s.error_by_out * r),
                                        (C)0.5 * (s.logvar + s.logvar_by * v[j]), dmean, dlog_scale);
          dout[j] = s.grad_mse * r - (frozen ? (C)0 : to_mean * dmean);
          dv[j] = (C)0.5 * s.grad_vb * s.logvar_by * dlog_scale;
        }
        return;
      }
      DGM_INDEPENDENT
      for (int j = from; j < to; ++j) {
        const C r = s.residual(prediction, out[j], x0[j], eps[j]);
        C ddiff, dlogvar;
        const C d = s.gap - s.logvar_by * v[j];
        vb_kl_grad(by_r * r, d, exp_of(d), s.precision_q, ddiff, dlogvar);
        dout[j] = s.grad_mse * r + to_mean * ddiff;
        dv[j] = s.grad_vb * s.logvar_by * dlogvar;
      }
    });
  }
};

template <class T>
struct Square : UniformKernel<T, 1, 0, 1, false> {
  using C = compute_t<T>;

  DGM_HD void operator()(const NoSample&, In<C> in, Out<C> results, int from, int to) const {
    const C* const x = in[0];
    C* const squares = results[0];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) squares[j] = x[j] * x[j];
  }
};

template <class T>
struct SquareGradient : KernelBase<T, 1, 1, 0, false> {
  using C = compute_t<T>;
  using Sample = C;

  SumGradient grad;

  DGM_HD Sample of(int64_t n) const { return (C)(2 * grad.at(n)); }

  DGM_HD void operator()(const C& grad_n, In<C> in, Out<C> results, int from, int to) const {
    const C* const x = in[0];
    C* const dx = results[0];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) dx[j] = grad_n * x[j];
  }
};

template <class Kernel>
static Work<Kernel> loss_work(const DiffusionLoss& args) {
  Work<Kernel> work = {};
  work.kernel.steps = args.steps;
  work.kernel.clip = args.clip;
  work.inner = args.inner;
  work.noise = args.noise;
  work.in[0] = args.out;
  work.in[1] = args.x0;
  return work;
}

template <class Kernel>
static Work<Kernel> gradient_work(const DiffusionLossBackward& args) {
  Work<Kernel> work = loss_work<Kernel>(args);
  work.kernel.grad_mse = args.grad_mse;
  work.kernel.grad_vb = args.grad_vb;
  work.out[0] = args.dout;
  return work;
}

static void mse(const DiffusionLoss& args, const SampleSums& sums, const Range& parts) {
  DGM_DISPATCH(args.dtype, run(loss_work<Mse<T>>(args), sums, parts));
}

static void mse_backward(const DiffusionLossBackward& args, const Range& elements) {
  DGM_DISPATCH(args.dtype, run(gradient_work<MseGradient<T>>(args), elements));
}

template <class T, bool learned>
static void vb_as(const DiffusionLoss& args, const SampleSums& sums, const Range& parts) {
  auto work = loss_work<Vb<T, learned>>(args);
  work.in[2] = args.x_t;
  if (learned) work.in[2 + learned] = args.v;
  run(work, sums, parts);
}

static void vb(const DiffusionLoss& args, const SampleSums& sums, const Range& parts) {
  DGM_DISPATCH(args.dtype, if (args.v.data != nullptr) vb_as<T, true>(args, sums, parts);
               else vb_as<T, false>(args, sums, parts));
}

template <class T, bool learned>
static void vb_backward_as(const DiffusionLossBackward& args, const Range& elements) {
  auto work = gradient_work<VbGradient<T, learned>>(args);
  work.in[2] = args.x_t;
  if (learned) {
    work.in[2 + learned] = args.v;
    work.out[learned] = args.dv;
  }
  run(work, elements);
}

static void vb_backward(const DiffusionLossBackward& args, const Range& elements) {
  DGM_DISPATCH(args.dtype, if (args.v.data != nullptr) vb_backward_as<T, true>(args, elements);
               else vb_backward_as<T, false>(args, elements));
}

template <class T>
static void hybrid_as(const DiffusionLoss& args, const SampleSums& sums, const Range& parts) {
  auto work = loss_work<Hybrid<T>>(args);
  work.in[2] = args.v;
  run(work, sums, parts);
}

static void hybrid(const DiffusionLoss& args, const SampleSums& sums, const Range& parts) {
  DGM_DISPATCH(args.dtype, hybrid_as<T>(args, sums, parts));
}

template <class T>
static void hybrid_backward_as(const DiffusionLossBackward& args, const Range& elements) {
  auto work = gradient_work<HybridGradient<T>>(args);
  work.kernel.frozen_mean = args.frozen_mean;
  work.in[2] = args.v;
  work.out[1] = args.dv;
  run(work, elements);
}

static void hybrid_backward(const DiffusionLossBackward& args, const Range& elements) {
  DGM_DISPATCH(args.dtype, hybrid_backward_as<T>(args, elements));
}

static void square(const SquareSum& args, const SampleSums& sums, const Range& parts) {
  DGM_DISPATCH(args.dtype, run(Work<Square<T>>{{}, args.inner, {args.x}, {}}, sums, parts));
}

static void square_backward(const SquareSum& args, const Range& elements) {
  DGM_DISPATCH(args.dtype, run(Work<SquareGradient<T>>{{{}, args.grad}, args.inner, {args.x}, {args.dx}}, elements));
}

extern const BoundLoops bound_loops;
const BoundLoops bound_loops = {mse, mse_backward, vb, vb_backward, hybrid, hybrid_backward, square, square_backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
