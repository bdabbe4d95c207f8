#include "reverse_loops.h"

#include "../math/diffusion.h"
#include "../math/exponential.h"
#include "pointwise.h"
#include "select.h"

namespace dgm {
namespace DGM_LEVEL {

// SampleStep in the compute type.
template <class C>
struct ReverseStepIn {
  C x0_by_x, x0_by_out, bound, x0_scale, by_x, by_out, by_x0, by_last, sigma, logvar, logvar_by;

  explicit ReverseStepIn(const SampleStep& s)
      : x0_by_x((C)s.x0_by_x),
        x0_by_out((C)s.x0_by_out),
        bound((C)s.bound),
        x0_scale((C)s.x0_scale),
        by_x((C)s.by_x),
        by_out((C)s.by_out),
        by_x0((C)s.by_x0),
        by_last((C)s.by_last),
        sigma((C)s.sigma),
        logvar((C)s.logvar),
        logvar_by((C)s.logvar_by) {}

  DGM_HD C raw_x0(C x, C out) const { return x0_of(x0_by_x, x0_by_out, x, out); }
  DGM_HD C clipped(C raw) const { return clamped(raw, bound) * x0_scale; }
  DGM_HD C learned_sigma(C v) const { return exp_of((C)0.5 * (logvar + logvar_by * v)); }
};

// inputs: out, x, [v], [last]; outputs: next, [x0]
template <class T, bool draws, bool learned, bool second_order, bool gives_x0>
static void step_loop(const ReverseStep& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  constexpr int kIn = 2 + learned + second_order, kOut = 1 + gives_x0;
  const auto body = [&](const C* const* in, C* const* results, int from, int to, int64_t sample) {
    const ReverseStepIn<C> s(args.steps[sample]);
    const C *out = in[0], *x = in[1], *v = in[2], *last = in[2], *eps = in[draws ? kIn : 0];
    C *next = results[0], *x0 = results[kOut - 1];
    const auto loop = [&](auto clips) {
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
    };
    if (args.clips)
      loop(Yes());
    else
      loop(No());
  };
  Operand in[kIn] = {args.out, args.x}, results[kOut] = {args.next};
  if (learned) in[kIn - 1] = args.v;
  if (second_order) in[kIn - 1] = args.last;
  if (gives_x0) results[kOut - 1] = args.x0;
  if constexpr (draws)
    pointwise<T>(in, results, args.noise, args.inner, begin, end, body);
  else
    pointwise<T>(in, results, args.inner, begin, end, body);
}

template <class T>
static void step_of(const ReverseStep& args, int64_t begin, int64_t end) {
  const bool x0 = args.x0.data != nullptr;
  if (args.last.data != nullptr) return step_loop<T, false, false, true, true>(args, begin, end);
  if (!args.draws)
    return x0 ? step_loop<T, false, false, false, true>(args, begin, end)
              : step_loop<T, false, false, false, false>(args, begin, end);
  if (args.v.data == nullptr)
    return x0 ? step_loop<T, true, false, false, true>(args, begin, end)
              : step_loop<T, true, false, false, false>(args, begin, end);
  return x0 ? step_loop<T, true, true, false, true>(args, begin, end)
            : step_loop<T, true, true, false, false>(args, begin, end);
}

static void step(const ReverseStep& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, step_of<T>(args, begin, end));
}

// inputs: grad, out, x, [grad_x0], [v, noise]; outputs: dout, dx, [dlast], [dv]
template <class T, bool with_x0, bool learned, bool second_order>
static void backward_loop(const ReverseBackward& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  constexpr int kIn = 3 + with_x0 + learned, kOut = 2 + learned + second_order;
  const auto body = [&](const C* const* in, C* const* results, int from, int to, int64_t sample) {
    const ReverseStepIn<C> s(args.steps[sample]);
    const C *grad = in[0], *out = in[1], *x = in[2], *grad_x0 = in[3], *v = in[kIn - 1], *eps = in[learned ? kIn : 0];
    C *dout = results[0], *dx = results[1], *dlast = results[2], *dv = results[kOut - 1];
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
  };
  Operand in[kIn] = {args.grad, args.out, args.x}, results[kOut] = {args.dout, args.dx};
  if (with_x0) in[3] = args.grad_x0;
  if (learned) in[kIn - 1] = args.v;
  if (second_order) results[2] = args.dlast;
  if (learned) results[kOut - 1] = args.dv;
  if constexpr (learned)
    pointwise<T>(in, results, args.noise, args.inner, begin, end, body);
  else
    pointwise<T>(in, results, args.inner, begin, end, body);
}

template <class T>
static void backward_of(const ReverseBackward& args, int64_t begin, int64_t end) {
  const bool x0 = args.grad_x0.data != nullptr;
  if (args.dlast.data != nullptr) return backward_loop<T, true, false, true>(args, begin, end);
  if (args.dv.data == nullptr)
    return x0 ? backward_loop<T, true, false, false>(args, begin, end)
              : backward_loop<T, false, false, false>(args, begin, end);
  return x0 ? backward_loop<T, true, true, false>(args, begin, end)
            : backward_loop<T, false, true, false>(args, begin, end);
}

static void backward(const ReverseBackward& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, backward_of<T>(args, begin, end));
}

template <class T>
static void quantile_of(const ReverseStep& args, double q, double* quantiles, void* scratch, int64_t begin,
                        int64_t end) {
  using C = compute_t<T>;
  bits_t<C>* const values = (bits_t<C>*)scratch;
  uint32_t* const counters = (uint32_t*)(values + args.inner);
  for (int64_t n = begin; n < end; ++n) {
    const int64_t first = n * args.inner;
    for (int64_t i = 0; i < args.inner; i += kChunk) {
      const int m = args.inner - i < kChunk ? (int)(args.inner - i) : kChunk;
      pointwise_chunk<T, 2, 0, false>({args.out, args.x}, nullptr, nullptr, args.inner, first + i, m,
                                      [&](const C* const* in, C* const*, int from, int to, int64_t sample) {
                                        const ReverseStepIn<C> s(args.steps[sample]);
                                        const C *out = in[0], *x = in[1];
                                        DGM_INDEPENDENT
                                        for (int j = from; j < to; ++j)
                                          values[i + j] = magnitude(s.raw_x0(x[j], out[j]));
                                      });
    }
    quantiles[n] = quantile_of_magnitudes<C>(values, args.inner, q, counters);
  }
}

static void quantile(const ReverseStep& args, double q, double* quantiles, void* scratch, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, quantile_of<T>(args, q, quantiles, scratch, begin, end));
}

extern const ReverseLoops reverse_loops;
const ReverseLoops reverse_loops = {step, backward, quantile};

}  // namespace DGM_LEVEL
}  // namespace dgm
