#include "gaussian_loops.h"

#include "../math/gaussian.h"
#include "pointwise.h"

namespace dgm {
namespace DGM_LEVEL {

// Bodies of pointwise loops: (in, out, from, to, sample).

template <class C>
static DGM_HD void rsample_body(const C* const* in, C* const* out, int from, int to) {
  const C *mu = in[0], *logvar = in[1], *eps = in[2];
  C* const z = out[0];
  DGM_INDEPENDENT
  for (int j = from; j < to; ++j) z[j] = mu[j] + exp_of(logvar[j] * (C)0.5) * eps[j];
}

template <class C>
static DGM_HD void kl_body(const C* const* in, C* kl, int from, int to) {
  const C *mu = in[0], *logvar = in[1];
  DGM_INDEPENDENT
  for (int j = from; j < to; ++j) kl[j] = kl_standard(mu[j], logvar[j], exp_of(logvar[j] * (C)0.5));
}

template <class C>
static DGM_HD void kl_between_body(const C* const* in, C* kl, int from, int to) {
  const C *mu = in[0], *logvar = in[1], *mu_p = in[2], *logvar_p = in[3];
  DGM_INDEPENDENT
  for (int j = from; j < to; ++j) kl[j] = kl_between(mu[j], logvar[j], mu_p[j], logvar_p[j]);
}

template <class C>
static DGM_HD void rsample_kl_body(const C* const* in, C* const* out, C* kl, int from, int to) {
  const C *mu = in[0], *logvar = in[1], *eps = in[2];
  C* const z = out[0];
  DGM_INDEPENDENT
  for (int j = from; j < to; ++j) {
    const C sigma = exp_of(logvar[j] * (C)0.5);
    z[j] = mu[j] + sigma * eps[j];
    kl[j] = kl_standard(mu[j], logvar[j], sigma);
  }
}

template <class T>
static void forward_loop(const GaussianForward& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  if (args.z.data != nullptr)
    pointwise<T>({args.mu, args.logvar}, {args.z}, args.noise, args.inner, begin, end,
                 [](const C* const* in, C* const* out, int from, int to, int64_t) { rsample_body(in, out, from, to); });
  else if (args.mu_p.data == nullptr)
    pointwise<T>({args.mu, args.logvar}, {args.kl}, args.inner, begin, end,
                 [](const C* const* in, C* const* out, int from, int to, int64_t) { kl_body(in, out[0], from, to); });
  else
    pointwise<T>(
        {args.mu, args.logvar, args.mu_p, args.logvar_p}, {args.kl}, args.inner, begin, end,
        [](const C* const* in, C* const* out, int from, int to, int64_t) { kl_between_body(in, out[0], from, to); });
}

template <class T>
static void forward_sums_loop(const GaussianForward& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const auto sum = [&](const auto& chunk) { sum_parts<C, 1>(sums, all, args.inner, begin, end, chunk); };
  if (args.z.data != nullptr) {
    NoiseReader<T> noise(args.noise);
    sum([&](int64_t i, int m, auto terms) {
      pointwise_chunk<T, 2, 1, true>({args.mu, args.logvar}, &args.z, &noise, args.inner, i, m,
                                     [&](const C* const* in, C* const* out, int from, int to, int64_t) {
                                       rsample_kl_body(in, out, terms[0], from, to);
                                     });
    });
  } else if (args.mu_p.data == nullptr) {
    sum([&](int64_t i, int m, auto terms) {
      pointwise_chunk<T, 2, 0, false>(
          {args.mu, args.logvar}, nullptr, nullptr, args.inner, i, m,
          [&](const C* const* in, C* const*, int from, int to, int64_t) { kl_body(in, terms[0], from, to); });
    });
  } else {
    sum([&](int64_t i, int m, auto terms) {
      pointwise_chunk<T, 4, 0, false>(
          {args.mu, args.logvar, args.mu_p, args.logvar_p}, nullptr, nullptr, args.inner, i, m,
          [&](const C* const* in, C* const*, int from, int to, int64_t) { kl_between_body(in, terms[0], from, to); });
    });
  }
}

static void forward(const GaussianForward& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, forward_loop<T>(args, begin, end));
}

static void forward_sums(const GaussianForward& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, forward_sums_loop<T>(args, sums, all, begin, end));
}

// Bodies of backward loops; grad_kl(j) is the gradient of element j's KL.

template <class C, class Grad>
static DGM_HD void kl_backward_body(const C* const* in, const Grad& grad_kl, C* const* out, int from, int to) {
  const C *mu = in[0], *logvar = in[1];
  C *const dmu = out[0], *const dlogvar = out[1];
  DGM_INDEPENDENT
  for (int j = from; j < to; ++j) {
    const C sigma = exp_of(logvar[j] * (C)0.5), g = grad_kl(j);
    dmu[j] = g * mu[j];
    dlogvar[j] = (C)0.5 * (g * exp_minus_1(logvar[j], sigma * sigma));
  }
}

template <class C, class Grad>
static DGM_HD void between_backward_body(const C* const* in, const Grad& grad_kl, C* const* out, int from, int to) {
  const C *mu = in[0], *logvar = in[1], *mu_p = in[2], *logvar_p = in[3];
  C *const dmu = out[0], *const dlogvar = out[1], *const dmu_p = out[2], *const dlogvar_p = out[3];
  DGM_INDEPENDENT
  for (int j = from; j < to; ++j) {
    const C diff = mu[j] - mu_p[j], ratio = logvar[j] - logvar_p[j], g = grad_kl(j);
    const C by_mu = g * diff * exp_of(-logvar_p[j]);
    const C by_logvar = (C)0.5 * g * exp_minus_1(ratio, exp_of_difference(logvar[j], logvar_p[j], ratio));
    dmu[j] = by_mu;
    dlogvar[j] = by_logvar;
    dmu_p[j] = -by_mu;
    dlogvar_p[j] = (C)-0.5 * by_mu * diff - by_logvar;
  }
}

template <class C>
static DGM_HD void rsample_backward_body(const C* const* in, C* const* out, int from, int to) {
  const C *logvar = in[0], *grad_z = in[1], *eps = in[2];
  C* const dlogvar = out[0];
  DGM_INDEPENDENT
  for (int j = from; j < to; ++j) dlogvar[j] = (C)0.5 * (grad_z[j] * eps[j] * exp_of(logvar[j] * (C)0.5));
}

template <class C>
static DGM_HD void rsample_kl_backward_body(const C* const* in, C grad_kl, C* const* out, int from, int to) {
  const C *mu = in[0], *logvar = in[1], *grad_z = in[2], *eps = in[3];
  C *const dmu = out[0], *const dlogvar = out[1];
  DGM_INDEPENDENT
  for (int j = from; j < to; ++j) {
    const C sigma = exp_of(logvar[j] * (C)0.5);
    dmu[j] = grad_z[j] + grad_kl * mu[j];
    dlogvar[j] = (C)0.5 * (grad_z[j] * eps[j] * sigma + grad_kl * exp_minus_1(logvar[j], sigma * sigma));
  }
}

template <class T>
static void backward_loop(const GaussianBackward& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const C* const of_sample = (const C*)args.grad_kl_sample;
  const auto each = [](const C* grad) { return [grad](int j) { return grad[j]; }; };
  const auto same = [&](int64_t sample) { return [g = of_sample[sample]](int) { return g; }; };
  const bool between = args.mu_p.data != nullptr, per_sample = of_sample != nullptr;
  using In = const C* const*;
  using Out = C* const*;
  if (args.grad_z.data != nullptr && per_sample)
    pointwise<T>({args.mu, args.logvar, args.grad_z}, {args.dmu, args.dlogvar}, args.noise, args.inner, begin, end,
                 [&](In in, Out out, int from, int to, int64_t sample) {
                   rsample_kl_backward_body(in, of_sample[sample], out, from, to);
                 });
  else if (args.grad_z.data != nullptr)
    pointwise<T>({args.logvar, args.grad_z}, {args.dlogvar}, args.noise, args.inner, begin, end,
                 [](In in, Out out, int from, int to, int64_t) { rsample_backward_body(in, out, from, to); });
  else if (between && per_sample)
    pointwise<T>({args.mu, args.logvar, args.mu_p, args.logvar_p}, {args.dmu, args.dlogvar, args.dmu_p, args.dlogvar_p},
                 args.inner, begin, end, [&](In in, Out out, int from, int to, int64_t sample) {
                   between_backward_body(in, same(sample), out, from, to);
                 });
  else if (between)
    pointwise<T>(
        {args.mu, args.logvar, args.mu_p, args.logvar_p, args.grad_kl},
        {args.dmu, args.dlogvar, args.dmu_p, args.dlogvar_p}, args.inner, begin, end,
        [&](In in, Out out, int from, int to, int64_t) { between_backward_body(in, each(in[4]), out, from, to); });
  else if (per_sample)
    pointwise<T>(
        {args.mu, args.logvar}, {args.dmu, args.dlogvar}, args.inner, begin, end,
        [&](In in, Out out, int from, int to, int64_t sample) { kl_backward_body(in, same(sample), out, from, to); });
  else
    pointwise<T>({args.mu, args.logvar, args.grad_kl}, {args.dmu, args.dlogvar}, args.inner, begin, end,
                 [&](In in, Out out, int from, int to, int64_t) { kl_backward_body(in, each(in[2]), out, from, to); });
}

static void backward(const GaussianBackward& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, backward_loop<T>(args, begin, end));
}

extern const GaussianLoops gaussian_loops;
const GaussianLoops gaussian_loops = {forward, forward_sums, backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
