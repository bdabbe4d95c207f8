// The adversarial game: kernels. Included by a driver's translation unit.
#include "adversarial.h"
#include "work.h"

// Run `body` with `kind` a constant.
#define DGM_DISPATCH_KIND(args_kind, ...)                                  \
  switch (args_kind) {                                                     \
    case GanKind::minmax: DGM_WITH_KIND(minmax, __VA_ARGS__)               \
    case GanKind::nonsaturating: DGM_WITH_KIND(nonsaturating, __VA_ARGS__) \
    case GanKind::least_squares: DGM_WITH_KIND(least_squares, __VA_ARGS__) \
    case GanKind::wasserstein: DGM_WITH_KIND(wasserstein, __VA_ARGS__)     \
    case GanKind::hinge: DGM_WITH_KIND(hinge, __VA_ARGS__)                 \
  }
#define DGM_WITH_KIND(name, ...)            \
  {                                         \
    constexpr GanKind kind = GanKind::name; \
    __VA_ARGS__;                            \
    break;                                  \
  }

namespace dgm {
namespace DGM_LEVEL {

template <class T, GanKind kind, Scores which>
struct GanTerms : UniformKernel<T, 1, 0, which == Scores::fake ? 2 : 1, false> {
  using C = compute_t<T>;

  DGM_HD void operator()(const NoSample&, In<C> in, Out<C> out, int from, int to) const {
    const C* const scores = in[0];
    C *const first = out[0], *const second = out[which == Scores::fake];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      if (which == Scores::real) first[j] = real_loss<kind>(scores[j]);
      if (which == Scores::fake) first[j] = fake_loss<kind>(scores[j]);
      if (which != Scores::real) second[j] = generator_loss<kind>(scores[j]);
    }
  }
};

template <class T, GanKind kind>
static void gan_sums_as(const GanLoss& args, const SampleSums& sums, const Range& parts) {
  switch (args.which) {
    case Scores::real:
      return run(Work<GanTerms<T, kind, Scores::real>>{{}, args.count, {args.scores}, {}}, sums, parts);
    case Scores::fake:
      return run(Work<GanTerms<T, kind, Scores::fake>>{{}, args.count, {args.scores}, {}}, sums, parts);
    default: return run(Work<GanTerms<T, kind, Scores::generator>>{{}, args.count, {args.scores}, {}}, sums, parts);
  }
}

static void gan_sums(const GanLoss& args, const SampleSums& sums, const Range& parts) {
  DGM_DISPATCH(args.dtype, DGM_DISPATCH_KIND(args.kind, gan_sums_as<T, kind>(args, sums, parts)));
}

// All scores are one sample, whose numbers are the gradients by each score's losses.
template <class T, GanKind kind, bool real>
struct GanSlope : KernelBase<T, 1, 1, 0, false> {
  using C = compute_t<T>;
  struct Sample {
    C by_d, by_g;
  };

  Scalar by_d, by_g;
  int64_t count;

  DGM_HD C each(const Scalar& of_mean) const {
    return of_mean.data == nullptr ? (C)0 : (C)((double)*(const C*)of_mean.data / (double)count);
  }

  DGM_HD Sample of(int64_t) const { return {each(by_d), each(by_g)}; }

  DGM_HD void operator()(const Sample& s, In<C> in, Out<C> out, int from, int to) const {
    const C* const scores = in[0];
    C* const slopes = out[0];
    if (real) {
      DGM_INDEPENDENT
      for (int j = from; j < to; ++j) slopes[j] = s.by_d * real_slope<kind>(scores[j]);
    } else if (s.by_g == 0) {
      DGM_INDEPENDENT
      for (int j = from; j < to; ++j) slopes[j] = s.by_d * fake_slope<kind>(scores[j]);
    } else if (s.by_d == 0) {
      DGM_INDEPENDENT
      for (int j = from; j < to; ++j) slopes[j] = s.by_g * generator_slope<kind>(scores[j]);
    } else {
      DGM_INDEPENDENT
      for (int j = from; j < to; ++j)
        slopes[j] = s.by_d * fake_slope<kind>(scores[j]) + s.by_g * generator_slope<kind>(scores[j]);
    }
  }
};

template <class T, GanKind kind, bool real>
static void gan_slopes_as(const GanSlopes& args, const Range& elements) {
  run(Work<GanSlope<T, kind, real>>{{{}, args.by_d, args.by_g, args.count}, args.count, {args.scores}, {args.out}},
      elements);
}

static void gan_slopes(const GanSlopes& args, const Range& elements) {
  DGM_DISPATCH(args.dtype, DGM_DISPATCH_KIND(args.kind, if (args.real) gan_slopes_as<T, kind, true>(args, elements);
                                             else gan_slopes_as<T, kind, false>(args, elements)));
}

// A sample's number is its weight alpha.
template <class T, int in, int out, int sums>
struct Interpolating : KernelBase<T, in, out, sums, false> {
  using Sample = compute_t<T>;
  WeightSource alpha;
  DGM_HD Sample of(int64_t n) const { return alpha.template at<Sample>(n); }
};

template <class T>
struct Interpolates : Interpolating<T, 2, 1, 0> {
  using C = compute_t<T>;

  DGM_HD void operator()(const C& a, In<C> in, Out<C> out, int from, int to) const {
    const C *x = in[0], *y = in[1], b = (C)1 - a;
    C* const z = out[0];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) z[j] = a * x[j] + b * y[j];
  }
};

static void interpolate(const Interpolate& args, const Range& elements) {
  DGM_DISPATCH(args.dtype,
               run(Work<Interpolates<T>>{{{{}, args.alpha}}, args.inner, {args.x, args.y}, {args.out}}, elements));
}

// inputs: grad, [x, y]; with these the sum of the gradient by alpha
template <class T, bool summed>
struct InterpolatesGradient : Interpolating<T, summed ? 3 : 1, 2, summed> {
  using C = compute_t<T>;

  DGM_HD void operator()(const C& a, In<C> in, Out<C> out, int from, int to) const {
    const C *grad = in[0], *x = in[summed], *y = in[2 * summed], b = (C)1 - a;
    C *const dx = out[0], *const dy = out[1], *const dalpha = out[2 * summed];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      if (summed) dalpha[j] = grad[j] * (x[j] - y[j]);
      dx[j] = a * grad[j];
      dy[j] = b * grad[j];
    }
  }
};

static void interpolate_backward(const InterpolateBackward& args, const Range& elements) {
  DGM_DISPATCH(
      args.dtype,
      run(Work<InterpolatesGradient<T, false>>{{{{}, args.alpha}}, args.inner, {args.grad}, {args.dx, args.dy}},
          elements));
}

static void interpolate_backward_sums(const InterpolateBackward& args, const SampleSums& sums, const Range& parts) {
  DGM_DISPATCH(args.dtype, run(
                               Work<InterpolatesGradient<T, true>>{
                                   {{{}, args.alpha}}, args.inner, {args.grad, args.x, args.y}, {args.dx, args.dy}},
                               sums, parts));
}

static void squares(const NormPenalty& args, const SampleSums& sums, const Range& parts);  // of the driver

// A sample's number is what its gradient is multiplied by.
template <class T>
struct PenaltyGradient : KernelBase<T, 1, 1, 0, false> {
  using C = compute_t<T>;
  using Sample = C;

  const C* grad_penalty;
  const double* squares;
  double target;
  bool one_sided;

  DGM_HD Sample of(int64_t n) const {
    return (C)((double)grad_penalty[n] * norm_penalty_slope(__builtin_sqrt(squares[n]), target, one_sided));
  }

  DGM_HD void operator()(const C& factor, In<C> in, Out<C> out, int from, int to) const {
    const C* const grad = in[0];
    C* const scaled = out[0];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) scaled[j] = factor * grad[j];
  }
};

template <class T>
static void penalty_backward_as(const NormPenaltyBackward& args, const Range& elements) {
  run(Work<PenaltyGradient<T>>{{{}, (const compute_t<T>*)args.grad_penalty, args.squares, args.target, args.one_sided},
                               args.inner,
                               {args.grad},
                               {args.out}},
      elements);
}

static void penalty_backward(const NormPenaltyBackward& args, const Range& elements) {
  DGM_DISPATCH(args.dtype, penalty_backward_as<T>(args, elements));
}

extern const AdversarialLoops adversarial_loops;
const AdversarialLoops adversarial_loops = {
    gan_sums, gan_slopes, interpolate, interpolate_backward, interpolate_backward_sums, squares, penalty_backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
