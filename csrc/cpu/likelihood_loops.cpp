#include "likelihood_loops.h"

#include "../math/likelihood.h"
#include "pointwise.h"

namespace dgm {
namespace DGM_LEVEL {

template <class C>
using In = const C* const*;

// (in, terms, from, to): the negative log-likelihood of each element

// Eight elements share a logarithm, that of the product of their 1 + e^-|l|, kept as what it exceeds 1 by so that small
// e^-|l| count in full: [1024, 784] in 0.43 ms instead of 0.51 on one thread.
template <class C>
static DGM_HD void bernoulli_body(In<C> in, C* terms, int from, int to) {
  constexpr int together = 8;
  const C *logits = in[0], *x = in[1];
  const int each = (to - from) / (together * kLanes) * kLanes, rest = from + together * each;
  DGM_INDEPENDENT
  for (int j = from; j < from + each; ++j) {
    C linear = 0, excess = 0;
#pragma GCC unroll 8
    for (int k = 0; k < together; ++k) {
      const C logit = logits[j + k * each], y = exp_minus_abs(logit);
      linear += bernoulli_linear(logit, x[j + k * each]);
      excess = multiply_add(excess, y, excess + y);
    }
    terms[j] = linear + log1p_of(excess);
  }
  for (int j = from + each; j < rest; ++j) terms[j] = 0;
  DGM_INDEPENDENT
  for (int j = rest; j < to; ++j) terms[j] = bernoulli_nll(logits[j], x[j]);
}

template <class C>
static DGM_HD void gaussian_body(In<C> in, C* terms, int from, int to) {
  const C *x = in[0], *mean = in[1], *logvar = in[2];
  DGM_INDEPENDENT
  for (int j = from; j < to; ++j) terms[j] = gaussian_nll(x[j], mean[j], logvar[j]);
}

template <class C>
static DGM_HD void discretized_body(In<C> in, C* terms, int from, int to) {
  const C *x = in[0], *mean = in[1], *log_scale = in[2];
  DGM_INDEPENDENT
  for (int j = from; j < to; ++j) terms[j] = discretized_gaussian_nll(x[j], mean[j], log_scale[j]);
}

template <class T>
static void sums_loop(const Likelihood& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const auto sum = [&](const auto& chunk) { sum_parts<C, 1>(sums, all, args.inner, begin, end, chunk); };
  if (args.density == Density::bernoulli)
    sum([&](int64_t i, int m, auto terms) {
      pointwise_chunk<T, 2, 0, false>(
          {args.in[0], args.in[1]}, nullptr, nullptr, args.inner, i, m,
          [&](In<C> in, C* const*, int from, int to, int64_t) { bernoulli_body(in, terms[0], from, to); });
    });
  else if (args.density == Density::gaussian)
    sum([&](int64_t i, int m, auto terms) {
      pointwise_chunk<T, 3, 0, false>(
          args.in, nullptr, nullptr, args.inner, i, m,
          [&](In<C> in, C* const*, int from, int to, int64_t) { gaussian_body(in, terms[0], from, to); });
    });
  else
    sum([&](int64_t i, int m, auto terms) {
      pointwise_chunk<T, 3, 0, false>(
          args.in, nullptr, nullptr, args.inner, i, m,
          [&](In<C> in, C* const*, int from, int to, int64_t) { discretized_body(in, terms[0], from, to); });
    });
}

static void sums(const Likelihood& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, sums_loop<T>(args, sums, all, begin, end));
}

template <class T>
static void backward_loop(const LikelihoodBackward& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  using Out = C* const*;
  const C* const grad = (const C*)args.grad;
  if (args.density == Density::bernoulli)
    pointwise<T>({args.in[0], args.in[1]}, {args.out[0]}, args.inner, begin, end,
                 [grad](In<C> in, Out out, int from, int to, int64_t sample) {
                   const C *logits = in[0], *x = in[1], g = grad[sample];
                   C* const dlogits = out[0];
                   DGM_INDEPENDENT
                   for (int j = from; j < to; ++j) dlogits[j] = g * bernoulli_nll_grad(logits[j], x[j]);
                 });
  else if (args.density == Density::gaussian)
    pointwise<T>(args.in, args.out, args.inner, begin, end,
                 [grad](In<C> in, Out out, int from, int to, int64_t sample) {
                   const C *x = in[0], *mean = in[1], *logvar = in[2], g = grad[sample];
                   C *const dmean = out[0], *const dlogvar = out[1];
                   DGM_INDEPENDENT
                   for (int j = from; j < to; ++j) {
                     C by_mean, by_logvar;
                     gaussian_nll_grad(x[j], mean[j], logvar[j], by_mean, by_logvar);
                     dmean[j] = g * by_mean;
                     dlogvar[j] = g * by_logvar;
                   }
                 });
  else
    pointwise<T>(args.in, args.out, args.inner, begin, end,
                 [grad](In<C> in, Out out, int from, int to, int64_t sample) {
                   const C *x = in[0], *mean = in[1], *log_scale = in[2], g = grad[sample];
                   C *const dmean = out[0], *const dlog_scale = out[1];
                   DGM_INDEPENDENT
                   for (int j = from; j < to; ++j) {
                     C by_mean, by_log_scale;
                     discretized_gaussian_nll_grad(x[j], mean[j], log_scale[j], by_mean, by_log_scale);
                     dmean[j] = g * by_mean;
                     dlog_scale[j] = g * by_log_scale;
                   }
                 });
}

static void backward(const LikelihoodBackward& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, backward_loop<T>(args, begin, end));
}

extern const LikelihoodLoops likelihood_loops;
const LikelihoodLoops likelihood_loops = {sums, backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
