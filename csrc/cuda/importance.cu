#include "../kernels/importance.h"
#include "../math/importance.h"
#include "pointwise.h"

namespace dgm {
namespace DGM_LEVEL {

// inputs: mu, logvar of the datum; z, and the terms of the log ratio
template <class T>
struct LogRatioKernel : UniformKernel<T, 2, 1, 1, true> {
  using C = compute_t<T>;

  DGM_HD void operator()(const NoSample&, In<C> in, Out<C> out, int from, int to) const {
    const C *mu = in[0], *logvar = in[1], *eps = in[2];
    C *const z = out[0], *const ratio = out[1];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      const C half = logvar[j] * (C)0.5, sigma = exp_of(half);
      ratio[j] = log_ratio_of(mu[j], logvar[j], sigma, exp_minus_1(half, sigma), eps[j], z[j]);
    }
  }
};

template <class T>
static void log_ratio_as(const LogRatioForward& args, const SampleSums& sums, const Range& parts) {
  const auto shared = [&](const void* data) { return Operand{(void*)data, args.inner, args.inner, args.k}; };
  run(Work<LogRatioKernel<T>>{{}, args.inner, {shared(args.mu), shared(args.logvar)}, {{args.z}}, args.noise}, sums,
      parts);
}

static void log_ratio(const LogRatioForward& args, const SampleSums& sums, const Range& parts) {
  DGM_DISPATCH(args.dtype, log_ratio_as<T>(args, sums, parts));
}

// A thread adds up the gradients of some columns of a datum over its samples, in double.
template <class T>
struct LogRatioGradientJob {
  using C = compute_t<T>;
  static constexpr int V = kVector<T>;
  struct Shared {};

  LogRatioBackward args;
  bool vectors;

  DGM_HD int phases() const { return 1; }

  DGM_HD void run(int, int64_t block, int thread, Shared&) const {
    const int64_t i = (block * kThreads + thread) * V, numel = args.data * args.inner;  // elements of mu
    if (vectors) {
      if (i < numel) columns<V>(i);
      return;
    }
    DGM_ROLL
    for (int64_t j = i; j < numel && j < i + V; ++j) columns<1>(j);
  }

 private:
  template <int n>
  DGM_HD void columns(int64_t i) const {
    const int64_t datum = divide(i, args.inner), column = i - datum * args.inner;
    C mu[n], logvar[n], sigma[n], eps[n], grad_z[n] = {};
    double by_mu[n] = {}, by_logvar[n] = {};
    load((const T*)args.mu + i, mu);
    load((const T*)args.logvar + i, logvar);
    DGM_UNROLL
    for (int j = 0; j < n; ++j) sigma[j] = exp_of(logvar[j] * (C)0.5);
    DGM_ROLL
    for (int64_t s = datum * args.k; s < (datum + 1) * args.k; ++s) {
      const int64_t at = s * args.inner + column;
      read_noise<T>(args.noise, at, eps);
      if (args.grad_z != nullptr) load((const T*)args.grad_z + at, grad_z);
      const C grad_ratio = args.grad_ratio == nullptr ? (C)0 : ((const C*)args.grad_ratio)[s];
      DGM_UNROLL
      for (int j = 0; j < n; ++j) {
        C dmu, dlogvar;
        log_ratio_gradients(mu[j], sigma[j], eps[j], grad_z[j], grad_ratio, dmu, dlogvar);
        by_mu[j] += (double)dmu;
        by_logvar[j] += (double)dlogvar;
      }
    }
    DGM_UNROLL
    for (int j = 0; j < n; ++j) {
      mu[j] = (C)by_mu[j];
      logvar[j] = (C)(0.5 * by_logvar[j]);
    }
    store((T*)args.dmu + i, mu);
    store((T*)args.dlogvar + i, logvar);
  }
};

template <class T>
static void log_ratio_backward_as(const LogRatioBackward& args, const Range& pieces) {
  using Job = LogRatioGradientJob<T>;
  const auto fits = [](const void* data) { return (uint64_t)data % 16 == 0; };
  const bool vectors = args.inner % Job::V == 0 && fits(args.mu) && fits(args.logvar) && fits(args.grad_z) &&
                       fits(args.dmu) && fits(args.dlogvar) && fits(args.noise.given) && args.noise.first % 4 == 0;
  launch(Job{args, vectors}, divide_up(args.data * args.inner, kThreads * Job::V), pieces.stream);
}

static void log_ratio_backward(const LogRatioBackward& args, const Range& pieces) {
  DGM_DISPATCH(args.dtype, log_ratio_backward_as<T>(args, pieces));
}

extern const ImportanceLoops importance_loops;
const ImportanceLoops importance_loops = {log_ratio, log_ratio_backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
