// Diagonal Gaussians: kernels. Included by a driver's translation unit.
#include "../math/gaussian.h"
#include "gaussian.h"
#include "work.h"

namespace dgm {
namespace DGM_LEVEL {

template <class T>
struct Rsample : UniformKernel<T, 2, 1, 0, true> {
  using C = compute_t<T>;

  DGM_HD void operator()(const NoSample&, In<C> in, Out<C> out, int from, int to) const {
    const C *mu = in[0], *logvar = in[1], *eps = in[2];
    C* const z = out[0];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) z[j] = mu[j] + exp_of(logvar[j] * (C)0.5) * eps[j];
  }
};

// KL to N(0, 1): of each element, or the terms of a sum
template <class T, bool summed>
struct KlStandard : UniformKernel<T, 2, !summed, summed, false> {
  using C = compute_t<T>;

  DGM_HD void operator()(const NoSample&, In<C> in, Out<C> out, int from, int to) const {
    const C *mu = in[0], *logvar = in[1];
    C* const kl = out[0];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) kl[j] = kl_standard(mu[j], logvar[j], exp_of(logvar[j] * (C)0.5));
  }
};

template <class T, bool summed>
struct KlBetween : UniformKernel<T, 4, !summed, summed, false> {
  using C = compute_t<T>;

  DGM_HD void operator()(const NoSample&, In<C> in, Out<C> out, int from, int to) const {
    const C *mu = in[0], *logvar = in[1], *mu_p = in[2], *logvar_p = in[3];
    C* const kl = out[0];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) kl[j] = kl_between(mu[j], logvar[j], mu_p[j], logvar_p[j]);
  }
};

template <class T>
struct RsampleKl : UniformKernel<T, 2, 1, 1, true> {
  using C = compute_t<T>;

  DGM_HD void operator()(const NoSample&, In<C> in, Out<C> out, int from, int to) const {
    const C *mu = in[0], *logvar = in[1], *eps = in[2];
    C *const z = out[0], *const kl = out[1];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      const C sigma = exp_of(logvar[j] * (C)0.5);
      z[j] = mu[j] + sigma * eps[j];
      kl[j] = kl_standard(mu[j], logvar[j], sigma);
    }
  }
};

static void forward(const GaussianForward& a, const Range& elements) {
  DGM_DISPATCH(
      a.dtype, if (a.z.data != nullptr) run(Work<Rsample<T>>{{}, a.inner, {a.mu, a.logvar}, {a.z}, a.noise}, elements);
      else if (a.mu_p.data == nullptr) run(Work<KlStandard<T, false>>{{}, a.inner, {a.mu, a.logvar}, {a.kl}}, elements);
      else run(Work<KlBetween<T, false>>{{}, a.inner, {a.mu, a.logvar, a.mu_p, a.logvar_p}, {a.kl}}, elements););
}

static void forward_sums(const GaussianForward& a, const SampleSums& sums, const Range& parts) {
  DGM_DISPATCH(a.dtype, if (a.z.data != nullptr)
                            run(Work<RsampleKl<T>>{{}, a.inner, {a.mu, a.logvar}, {a.z}, a.noise}, sums, parts);
               else if (a.mu_p.data == nullptr)
                   run(Work<KlStandard<T, true>>{{}, a.inner, {a.mu, a.logvar}, {}}, sums, parts);
               else run(Work<KlBetween<T, true>>{{}, a.inner, {a.mu, a.logvar, a.mu_p, a.logvar_p}, {}}, sums, parts););
}

// A gradient by the KL divergence of a sample, or of each element: then it is an input, after the others.
template <class T, int in, int out, bool draws, bool per_sample>
struct GaussianGradient : KernelBase<T, in + !per_sample, out, 0, draws> {
  using C = compute_t<T>;
  using Sample = C;
  const C* grad_kl;
  DGM_HD Sample of(int64_t n) const { return per_sample ? grad_kl[n] : (C)0; }
  DGM_HD static C at(const Sample& of_sample, In<C> inputs, int j) { return per_sample ? of_sample : inputs[in][j]; }
};

template <class T, bool per_sample>
struct KlGradient : GaussianGradient<T, 2, 2, false, per_sample> {
  using C = compute_t<T>;

  DGM_HD void operator()(const C& of_sample, In<C> in, Out<C> out, int from, int to) const {
    const C *mu = in[0], *logvar = in[1];
    C *const dmu = out[0], *const dlogvar = out[1];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      const C sigma = exp_of(logvar[j] * (C)0.5), g = this->at(of_sample, in, j);
      dmu[j] = g * mu[j];
      dlogvar[j] = (C)0.5 * (g * exp_minus_1(logvar[j], sigma * sigma));
    }
  }
};

template <class T, bool per_sample>
struct KlBetweenGradient : GaussianGradient<T, 4, 4, false, per_sample> {
  using C = compute_t<T>;

  DGM_HD void operator()(const C& of_sample, In<C> in, Out<C> out, int from, int to) const {
    const C *mu = in[0], *logvar = in[1], *mu_p = in[2], *logvar_p = in[3];
    C *const dmu = out[0], *const dlogvar = out[1], *const dmu_p = out[2], *const dlogvar_p = out[3];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      const C diff = mu[j] - mu_p[j], ratio = logvar[j] - logvar_p[j], g = this->at(of_sample, in, j);
      const C by_mu = g * diff * exp_of(-logvar_p[j]);
      const C by_logvar = (C)0.5 * g * exp_minus_1(ratio, exp_of_difference(logvar[j], logvar_p[j], ratio));
      dmu[j] = by_mu;
      dlogvar[j] = by_logvar;
      dmu_p[j] = -by_mu;
      dlogvar_p[j] = (C)-0.5 * by_mu * diff - by_logvar;
    }
  }
};

// inputs: logvar, grad_z; the gradient by mu is grad_z
template <class T>
struct RsampleGradient : UniformKernel<T, 2, 1, 0, true> {
  using C = compute_t<T>;

  DGM_HD void operator()(const NoSample&, In<C> in, Out<C> out, int from, int to) const {
    const C *logvar = in[0], *grad_z = in[1], *eps = in[2];
    C* const dlogvar = out[0];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) dlogvar[j] = (C)0.5 * (grad_z[j] * eps[j] * exp_of(logvar[j] * (C)0.5));
  }
};

template <class T>
struct RsampleKlGradient : GaussianGradient<T, 3, 2, true, true> {
  using C = compute_t<T>;

  DGM_HD void operator()(const C& grad_kl, In<C> in, Out<C> out, int from, int to) const {
    const C *mu = in[0], *logvar = in[1], *grad_z = in[2], *eps = in[3];
    C *const dmu = out[0], *const dlogvar = out[1];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      const C sigma = exp_of(logvar[j] * (C)0.5);
      dmu[j] = grad_z[j] + grad_kl * mu[j];
      dlogvar[j] = (C)0.5 * (grad_z[j] * eps[j] * sigma + grad_kl * exp_minus_1(logvar[j], sigma * sigma));
    }
  }
};

template <class Kernel>
static Work<Kernel> gradient_work(const GaussianBackward& a) {
  Work<Kernel> work = {};
  work.kernel.grad_kl = (const typename Kernel::C*)a.grad_kl_sample;
  work.inner = a.inner;
  return work;
}

template <class T, bool per_sample>
static void kl_backward(const GaussianBackward& a, const Range& elements) {
  const Operand in[] = {a.mu, a.logvar, a.mu_p, a.logvar_p}, out[] = {a.dmu, a.dlogvar, a.dmu_p, a.dlogvar_p};
  const auto with = [&](auto work, int count) {
    for (int k = 0; k < count; ++k) {
      work.in[k] = in[k];
      work.out[k] = out[k];
    }
    if (!per_sample) work.in[count] = a.grad_kl;
    run(work, elements);
  };
  if (a.mu_p.data != nullptr)
    with(gradient_work<KlBetweenGradient<T, per_sample>>(a), 4);
  else
    with(gradient_work<KlGradient<T, per_sample>>(a), 2);
}

template <class T>
static void backward_as(const GaussianBackward& a, const Range& elements) {
  const bool per_sample = a.grad_kl_sample != nullptr;
  if (a.grad_z.data == nullptr) return (per_sample ? kl_backward<T, true> : kl_backward<T, false>)(a, elements);
  if (!per_sample)
    return run(Work<RsampleGradient<T>>{{}, a.inner, {a.logvar, a.grad_z}, {a.dlogvar}, a.noise}, elements);
  Work<RsampleKlGradient<T>> work = gradient_work<RsampleKlGradient<T>>(a);
  work.in[0] = a.mu;
  work.in[1] = a.logvar;
  work.in[2] = a.grad_z;
  work.out[0] = a.dmu;
  work.out[1] = a.dlogvar;
  work.noise = a.noise;
  run(work, elements);
}

static void backward(const GaussianBackward& args, const Range& elements) {
  DGM_DISPATCH(args.dtype, backward_as<T>(args, elements));
}

extern const GaussianLoops gaussian_loops;
const GaussianLoops gaussian_loops = {forward, forward_sums, backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
