#include "../kernels/importance.h"
#include "../math/importance.h"
#include "pointwise.h"

namespace dgm {
namespace DGM_LEVEL {

static_assert(kLogRatioPiece == kChunk, "a piece of columns is a chunk");

// The parameters of columns of one datum, made once for all its samples.
template <class T>
struct Parameters {
  using C = compute_t<T>;
  C mu[kChunk], logvar[kChunk], sigma[kChunk], sigma_minus_1[kChunk];

  explicit Parameters(const LogRatio& args) : args_(args) {}

  // The n <= kChunk columns of a datum from `column` on.
  void load(int64_t datum, int64_t column, int n) {
    if (datum == datum_ && column == column_ && n == n_) return;
    datum_ = datum;
    column_ = column;
    n_ = n;
    const int64_t at = datum * args_.inner + column;
    read_into((const T*)args_.mu + at, n, mu);
    read_into((const T*)args_.logvar + at, n, logvar);
    DGM_INDEPENDENT
    for (int j = 0; j < n; ++j) {
      const C half = logvar[j] * (C)0.5;
      sigma[j] = exp_of(half);
      sigma_minus_1[j] = exp_minus_1(half, sigma[j]);
    }
  }

 private:
  const LogRatio& args_;
  int64_t datum_ = -1, column_ = 0;
  int n_ = 0;
};

template <class T>
static void log_ratio_loop(const LogRatioForward& args, const SampleSums& sums, const Range& parts) {
  using C = compute_t<T>;
  NoiseReader<T> noise(args.noise);
  Parameters<T> of(args);
  const int64_t inner = args.inner, k = args.k;
  C eps_buffer[kChunk], z_buffer[kChunk];
  sum_parts<C, 1>(sums, inner, parts, [&](int64_t i, int m, auto terms) {
    const C* const eps = noise.read(i, m, eps_buffer);
    C *const z = place((T*)args.z + i, z_buffer), *const ratio = terms[0];
    int64_t column = i % inner, datum = i / inner / k, left = k - i / inner % k;  // samples of the datum
    for (int from = 0; from < m;) {
      const int n = inner - column < m - from ? (int)(inner - column) : m - from;
      of.load(datum, column, n);
      const C* const e = eps + from;
      C *const z_from = z + from, *const ratio_from = ratio + from;
      DGM_INDEPENDENT
      for (int j = 0; j < n; ++j)
        ratio_from[j] = log_ratio_of(of.mu[j], of.logvar[j], of.sigma[j], of.sigma_minus_1[j], e[j], z_from[j]);
      from += n;
      column = 0;
      if (--left == 0) {
        ++datum;
        left = k;
      }
    }
    write((T*)args.z + i, m, z);
  });
}

// Sums over the samples of a datum: in the compute type over kInner additions, then in double.
template <class C>
class ColumnSums {
 public:
  C by_mu[kChunk], by_logvar[kChunk];

  void clear(int n) {
    for (int j = 0; j < n; ++j) by_mu[j] = by_logvar[j] = 0, mu_[j] = logvar_[j] = 0;
    added_ = 0;
  }
  void added(int n) {
    if (++added_ == kInner) flush(n);
  }
  void finish(int n, C* dmu, C* dlogvar) {
    flush(n);
    DGM_INDEPENDENT
    for (int j = 0; j < n; ++j) {
      dmu[j] = (C)mu_[j];
      dlogvar[j] = (C)(0.5 * logvar_[j]);
    }
  }

 private:
  static constexpr int kInner = 16;

  void flush(int n) {
    DGM_INDEPENDENT
    for (int j = 0; j < n; ++j) {
      mu_[j] += (double)by_mu[j];
      logvar_[j] += (double)by_logvar[j];
      by_mu[j] = by_logvar[j] = 0;
    }
    added_ = 0;
  }

  double mu_[kChunk], logvar_[kChunk];
  int added_ = 0;
};

template <class T>
static void log_ratio_backward_loop(const LogRatioBackward& args, const Range& range) {
  using C = compute_t<T>;
  NoiseReader<T> noise(args.noise);
  Parameters<T> of(args);
  ColumnSums<C> sums;
  const int64_t inner = args.inner, k = args.k, pieces = (inner + kChunk - 1) / kChunk;
  const C* const grad_ratios = (const C*)args.grad_ratio;
  C eps_buffer[kChunk], grad_buffer[kChunk], zeros[kChunk] = {};
  for (int64_t unit = range.begin; unit < range.end; ++unit) {
    const int64_t datum = unit / pieces, column = unit % pieces * kChunk;
    const int n = inner - column < kChunk ? (int)(inner - column) : kChunk;
    const int64_t together = pieces == 1 ? kChunk / inner : 1;  // samples whose noise is drawn at once
    of.load(datum, column, n);
    sums.clear(n);
    for (int64_t first = 0; first < k; first += together) {
      const int count = k - first < together ? (int)(k - first) : (int)together;
      const int64_t sample = datum * k + first, i = sample * inner + column;
      const C* const eps = noise.read(i, count * n, eps_buffer);
      const C* const grads = args.grad_z == nullptr ? zeros : read((const T*)args.grad_z + i, count * n, grad_buffer);
      for (int s = 0; s < count; ++s) {
        const C grad_ratio = grad_ratios == nullptr ? (C)0 : grad_ratios[sample + s];
        const C *const e = eps + s * n, *const g = grads + s * n;
        DGM_INDEPENDENT
        for (int j = 0; j < n; ++j) {
          C by_mu, by_logvar;
          log_ratio_gradients(of.mu[j], of.sigma[j], e[j], g[j], grad_ratio, by_mu, by_logvar);
          sums.by_mu[j] += by_mu;
          sums.by_logvar[j] += by_logvar;
        }
        sums.added(n);
      }
    }
    const int64_t at = datum * inner + column;
    C *const dmu = place((T*)args.dmu + at, eps_buffer), *const dlogvar = place((T*)args.dlogvar + at, grad_buffer);
    sums.finish(n, dmu, dlogvar);
    write((T*)args.dmu + at, n, dmu);
    write((T*)args.dlogvar + at, n, dlogvar);
  }
}

static void log_ratio(const LogRatioForward& args, const SampleSums& sums, const Range& parts) {
  DGM_DISPATCH(args.dtype, log_ratio_loop<T>(args, sums, parts));
}

static void log_ratio_backward(const LogRatioBackward& args, const Range& pieces) {
  DGM_DISPATCH(args.dtype, log_ratio_backward_loop<T>(args, pieces));
}

extern const ImportanceLoops importance_loops;
const ImportanceLoops importance_loops = {log_ratio, log_ratio_backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
