#include "bound_loops.h"

#include "../math/bound.h"
#include "pointwise.h"

namespace dgm {
namespace DGM_LEVEL {

// LossStep in the compute type.
template <class C>
struct LossStepIn {
  C signal, sigma, x0_by_x, x0_by_out, error_by_out, mean_x0, mean_x, precision_q, logvar, logvar_by, gap, clip;
  bool decodes;

  LossStepIn(const LossStep& s, double bound)
      : signal((C)s.signal),
        sigma((C)s.sigma),
        x0_by_x((C)s.x0_by_x),
        x0_by_out((C)s.x0_by_out),
        error_by_out((C)s.error_by_out),
        mean_x0((C)s.mean_x0),
        mean_x((C)s.mean_x),
        precision_q((C)s.precision_q),
        logvar((C)s.logvar),
        logvar_by((C)s.logvar_by),
        gap((C)s.gap),
        clip((C)bound),
        decodes(s.decodes) {}

  DGM_HD C raw_x0(C x, C out) const { return x0_of(x0_by_x, x0_by_out, x, out); }
  DGM_HD C clipped(C x0) const { return clamped(x0, clip); }
  DGM_HD C residual(Prediction prediction, C out, C x0, C eps) const {
    return out - target_of(prediction, signal, sigma, x0, eps);
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

template <class T>
static void mse_loop(const DiffusionLoss& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  NoiseReader<T> noise(args.noise);
  sum_parts<C, 1>(sums, all, args.inner, begin, end, [&](int64_t i, int m, auto terms) {
    pointwise_chunk<T, 2, 0, true>({args.out, args.x0}, nullptr, &noise, args.inner, i, m,
                                   [&](const C* const* in, C* const*, int from, int to, int64_t sample) {
                                     const LossStepIn<C> s(args.steps[sample], args.clip);
                                     const C *out = in[0], *x0 = in[1], *eps = in[2];
                                     C* const squares = terms[0];
                                     for_prediction(args.prediction, [&](auto prediction) {
                                       DGM_INDEPENDENT
                                       for (int j = from; j < to; ++j) {
                                         const C r = s.residual(prediction, out[j], x0[j], eps[j]);
                                         squares[j] = r * r;
                                       }
                                     });
                                   });
  });
}

template <class T>
static void mse_backward_loop(const DiffusionLossBackward& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  pointwise<T>({args.out, args.x0}, {args.dout}, args.noise, args.inner, begin, end,
               [&](const C* const* in, C* const* results, int from, int to, int64_t sample) {
                 const LossStepIn<C> s(args.steps[sample], args.clip);
                 const C *out = in[0], *x0 = in[1], *eps = in[2], grad = (C)(2 * args.grad_mse[sample]);
                 C* const dout = results[0];
                 for_prediction(args.prediction, [&](auto prediction) {
                   DGM_INDEPENDENT
                   for (int j = from; j < to; ++j) dout[j] = grad * s.residual(prediction, out[j], x0[j], eps[j]);
                 });
               });
}

// inputs: out, x0, x_t, [v]
template <class T, bool learned>
static void vb_loop(const DiffusionLoss& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  constexpr int kIn = 3 + learned;
  Operand operands[kIn] = {args.out, args.x0, args.x_t};
  if (learned) operands[kIn - 1] = args.v;
  sum_parts<C, 1>(sums, all, args.inner, begin, end, [&](int64_t i, int m, auto terms) {
    pointwise_chunk<T, kIn, 0, false>(operands, nullptr, nullptr, args.inner, i, m,
                                      [&](const C* const* in, C* const*, int from, int to, int64_t sample) {
                                        const LossStepIn<C> s(args.steps[sample], args.clip);
                                        const C *out = in[0], *x0 = in[1], *x = in[2], *v = in[kIn - 1];
                                        C* const nats = terms[0];
                                        if (s.decodes) {
                                          for (int j = from; j < to; ++j) {
                                            const C mean =
                                                s.mean_x0 * s.clipped(s.raw_x0(x[j], out[j])) + s.mean_x * x[j];
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
                                      });
  });
}

// the same inputs; outputs: dout, [dv]
template <class T, bool learned>
static void vb_backward_loop(const DiffusionLossBackward& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  constexpr int kIn = 3 + learned, kOut = 1 + learned;
  Operand operands[kIn] = {args.out, args.x0, args.x_t}, results[kOut] = {args.dout};
  if (learned) {
    operands[kIn - 1] = args.v;
    results[kOut - 1] = args.dv;
  }
  pointwise<T>(operands, results, args.inner, begin, end,
               [&](const C* const* in, C* const* out_to, int from, int to, int64_t sample) {
                 const LossStepIn<C> s(args.steps[sample], args.clip);
                 const C *out = in[0], *x0 = in[1], *x = in[2], *v = in[kIn - 1], grad = (C)args.grad_vb[sample];
                 C *const dout = out_to[0], *const dv = out_to[kOut - 1];
                 const C by_out = s.mean_x0 * s.x0_by_out;
                 if (s.decodes) {
                   for (int j = from; j < to; ++j) {
                     const C raw = s.raw_x0(x[j], out[j]), logvar = learned ? s.logvar + s.logvar_by * v[j] : s.logvar;
                     C dmean, dlog_scale;
                     discretized_gaussian_nll_grad(x0[j], s.mean_x0 * s.clipped(raw) + s.mean_x * x[j], (C)0.5 * logvar,
                                                   dmean, dlog_scale);
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
                   vb_kl_grad(s.mean_x0 * (x0[j] - s.clipped(raw)), d, learned ? exp_of(d) : fixed, s.precision_q,
                              ddiff, dlogvar);
                   dout[j] = raw > s.clip || raw < -s.clip ? (C)0 : -grad * by_out * ddiff;
                   if (learned) dv[j] = grad * s.logvar_by * dlogvar;
                 }
               });
}

// Squared error and bound from one draw of the noise: x_t and the predicted x_0 are never formed, and the error of
// x_0 is that of the prediction times a number, which cancels nothing.
template <class T>
static void hybrid_loop(const DiffusionLoss& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  NoiseReader<T> noise(args.noise);
  sum_parts<C, 2>(sums, all, args.inner, begin, end, [&](int64_t i, int m, auto terms) {
    pointwise_chunk<T, 3, 0, true>({args.out, args.x0, args.v}, nullptr, &noise, args.inner, i, m,
                                   [&](const C* const* in, C* const*, int from, int to, int64_t sample) {
                                     const LossStepIn<C> s(args.steps[sample], args.clip);
                                     const C *out = in[0], *x0 = in[1], *v = in[2], *eps = in[3];
                                     C *const squares = terms[0], *const nats = terms[1];
                                     const C by_r = s.mean_x0 * s.error_by_out;
                                     for_prediction(args.prediction, [&](auto prediction) {
                                       if (s.decodes) {
                                         for (int j = from; j < to; ++j) {
                                           const C r = s.residual(prediction, out[j], x0[j], eps[j]);
                                           squares[j] = r * r;
                                           nats[j] =
                                               discretized_gaussian_nll(x0[j], s.mean_x0 * (x0[j] - s.error_by_out * r),
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
                                   });
  });
}

template <class T>
static void hybrid_backward_loop(const DiffusionLossBackward& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  pointwise<T>({args.out, args.x0, args.v}, {args.dout, args.dv}, args.noise, args.inner, begin, end,
               [&](const C* const* in, C* const* results, int from, int to, int64_t sample) {
                 const LossStepIn<C> s(args.steps[sample], args.clip);
                 const C *out = in[0], *x0 = in[1], *v = in[2], *eps = in[3];
                 const C grad_mse = (C)(2 * args.grad_mse[sample]), grad_vb = (C)args.grad_vb[sample];
                 C *const dout = results[0], *const dv = results[1];
                 const C by_r = s.mean_x0 * s.error_by_out, to_mean = args.frozen_mean ? (C)0 : grad_vb * by_r;
                 for_prediction(args.prediction, [&](auto prediction) {
                   if (s.decodes) {
                     for (int j = from; j < to; ++j) {
                       const C r = s.residual(prediction, out[j], x0[j], eps[j]);
                       C dmean, dlog_scale;
                       discretized_gaussian_nll_grad(x0[j], s.mean_x0 * (x0[j] - s.error_by_out * r),
                                                     (C)0.5 * (s.logvar + s.logvar_by * v[j]), dmean, dlog_scale);
                       dout[j] = grad_mse * r - (args.frozen_mean ? (C)0 : to_mean * dmean);
                       dv[j] = (C)0.5 * grad_vb * s.logvar_by * dlog_scale;
                     }
                     return;
                   }
                   DGM_INDEPENDENT
                   for (int j = from; j < to; ++j) {
                     const C r = s.residual(prediction, out[j], x0[j], eps[j]);
                     C ddiff, dlogvar;
                     const C d = s.gap - s.logvar_by * v[j];
                     vb_kl_grad(by_r * r, d, exp_of(d), s.precision_q, ddiff, dlogvar);
                     dout[j] = grad_mse * r + to_mean * ddiff;
                     dv[j] = grad_vb * s.logvar_by * dlogvar;
                   }
                 });
               });
}

template <class T>
static void square_loop(const SquareSum& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  sum_parts<C, 1>(sums, all, args.inner, begin, end, [&](int64_t i, int m, auto terms) {
    pointwise_chunk<T, 1, 0, false>({args.x}, nullptr, nullptr, args.inner, i, m,
                                    [&](const C* const* in, C* const*, int from, int to, int64_t) {
                                      const C* const x = in[0];
                                      C* const squares = terms[0];
                                      DGM_INDEPENDENT
                                      for (int j = from; j < to; ++j) squares[j] = x[j] * x[j];
                                    });
  });
}

template <class T>
static void square_backward_loop(const SquareSum& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  pointwise<T>({args.x}, {args.dx}, args.inner, begin, end,
               [&](const C* const* in, C* const* results, int from, int to, int64_t sample) {
                 const C *x = in[0], grad = (C)(2 * args.grad[sample]);
                 C* const dx = results[0];
                 DGM_INDEPENDENT
                 for (int j = from; j < to; ++j) dx[j] = grad * x[j];
               });
}

static void mse(const DiffusionLoss& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, mse_loop<T>(args, sums, all, begin, end));
}

static void mse_backward(const DiffusionLossBackward& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, mse_backward_loop<T>(args, begin, end));
}

static void vb(const DiffusionLoss& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, if (args.v.data != nullptr) vb_loop<T, true>(args, sums, all, begin, end);
               else vb_loop<T, false>(args, sums, all, begin, end));
}

static void vb_backward(const DiffusionLossBackward& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, if (args.v.data != nullptr) vb_backward_loop<T, true>(args, begin, end);
               else vb_backward_loop<T, false>(args, begin, end));
}

static void hybrid(const DiffusionLoss& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, hybrid_loop<T>(args, sums, all, begin, end));
}

static void hybrid_backward(const DiffusionLossBackward& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, hybrid_backward_loop<T>(args, begin, end));
}

static void square(const SquareSum& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, square_loop<T>(args, sums, all, begin, end));
}

static void square_backward(const SquareSum& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, square_backward_loop<T>(args, begin, end));
}

extern const BoundLoops bound_loops;
const BoundLoops bound_loops = {mse, mse_backward, vb, vb_backward, hybrid, hybrid_backward, square, square_backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
