#include "adversarial_loops.h"

#include "pointwise.h"
#include "weights.h"

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

template <class T, GanKind kind>
static void gan_sums_loop(const GanLoss& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const int64_t real_parts = (args.real_count + kPart - 1) / kPart;
  C buffer[kChunk], by_d[kChunk + kLanes], by_g[kChunk + kLanes];
  for (int64_t part = begin; part < end; ++part) {
    const bool real = part < real_parts;
    const int64_t from = (real ? part : part - real_parts) * kPart;
    const int64_t count = real ? args.real_count : args.fake_count, to = from + kPart < count ? from + kPart : count;
    double d = 0, g = 0;
    for (int64_t i = from; i < to; i += kChunk) {
      const int m = to - i < kChunk ? (int)(to - i) : kChunk;
      const C* __restrict scores = read((const T*)(real ? args.real : args.fake) + i, m, buffer);
      if (real) {
        DGM_INDEPENDENT
        for (int j = 0; j < m; ++j) by_d[j] = real_loss<kind>(scores[j]);
      } else {
        DGM_INDEPENDENT
        for (int j = 0; j < m; ++j) {
          by_d[j] = fake_loss<kind>(scores[j]);
          by_g[j] = generator_loss<kind>(scores[j]);
        }
        g += sum_of(by_g, m);
      }
      d += sum_of(by_d, m);
    }
    args.sums[2 * part] = d;
    args.sums[2 * part + 1] = g;
  }
}

static void gan_sums(const GanLoss& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, DGM_DISPATCH_KIND(args.kind, gan_sums_loop<T, kind>(args, begin, end)));
}

template <class T, GanKind kind>
static void gan_slopes_loop(const GanSlopes& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const C by_d = (C)args.by_d, by_g = (C)args.by_g;
  C scores_buffer[kChunk], out_buffer[kChunk];
  for (int64_t i = begin; i < end; i += kChunk) {
    const int m = end - i < kChunk ? (int)(end - i) : kChunk;
    const C* __restrict scores = read((const T*)args.scores + i, m, scores_buffer);
    T* const memory = (T*)args.out + i;
    C* __restrict out = place(memory, out_buffer);
    if (args.real) {
      DGM_INDEPENDENT
      for (int j = 0; j < m; ++j) out[j] = by_d * real_slope<kind>(scores[j]);
    } else if (args.by_g == 0) {
      DGM_INDEPENDENT
      for (int j = 0; j < m; ++j) out[j] = by_d * fake_slope<kind>(scores[j]);
    } else if (args.by_d == 0) {
      DGM_INDEPENDENT
      for (int j = 0; j < m; ++j) out[j] = by_g * generator_slope<kind>(scores[j]);
    } else {
      DGM_INDEPENDENT
      for (int j = 0; j < m; ++j) out[j] = by_d * fake_slope<kind>(scores[j]) + by_g * generator_slope<kind>(scores[j]);
    }
    write(memory, m, out);
  }
}

static void gan_slopes(const GanSlopes& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, DGM_DISPATCH_KIND(args.kind, gan_slopes_loop<T, kind>(args, begin, end)));
}

template <class T>
static void interpolate_loop(const Interpolate& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  WeightReader<C> alpha(args.alpha);
  pointwise<T>({args.x, args.y}, {args.out}, args.inner, begin, end,
               [&](const C* const* in, C* const* out, int from, int to, int64_t sample) {
                 const C a = alpha(sample), b = (C)1 - a;
                 const C *x = in[0], *y = in[1];
                 C* const z = out[0];
                 DGM_INDEPENDENT
                 for (int j = from; j < to; ++j) z[j] = a * x[j] + b * y[j];
               });
}

static void interpolate(const Interpolate& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, interpolate_loop<T>(args, begin, end));
}

template <class T>
static void interpolate_backward_loop(const InterpolateBackward& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  WeightReader<C> alpha(args.alpha);
  pointwise<T>({args.grad}, {args.dx, args.dy}, args.inner, begin, end,
               [&](const C* const* in, C* const* out, int from, int to, int64_t sample) {
                 const C a = alpha(sample), b = (C)1 - a;
                 const C* const grad = in[0];
                 C *const dx = out[0], *const dy = out[1];
                 DGM_INDEPENDENT
                 for (int j = from; j < to; ++j) {
                   dx[j] = a * grad[j];
                   dy[j] = b * grad[j];
                 }
               });
}

static void interpolate_backward(const InterpolateBackward& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, interpolate_backward_loop<T>(args, begin, end));
}

template <class T>
static void interpolate_backward_sums_loop(const InterpolateBackward& args, double* sums, int64_t all, int64_t begin,
                                           int64_t end) {
  using C = compute_t<T>;
  WeightReader<C> alpha(args.alpha);
  const Operand inputs[] = {args.grad, args.x, args.y}, outputs[] = {args.dx, args.dy};
  sum_parts<C, 1>(sums, all, args.inner, begin, end, [&](int64_t i, int m, C(*terms)[kChunk + kLanes]) {
    pointwise_chunk<T, 3, 2, false>(inputs, outputs, nullptr, args.inner, i, m,
                                    [&](const C* const* in, C* const* out, int from, int to, int64_t sample) {
                                      const C a = alpha(sample), b = (C)1 - a;
                                      const C *grad = in[0], *x = in[1], *y = in[2];
                                      C *const dx = out[0], *const dy = out[1], *const dalpha = terms[0];
                                      DGM_INDEPENDENT
                                      for (int j = from; j < to; ++j) {
                                        dx[j] = a * grad[j];
                                        dy[j] = b * grad[j];
                                        dalpha[j] = grad[j] * (x[j] - y[j]);
                                      }
                                    });
  });
}

static void interpolate_backward_sums(const InterpolateBackward& args, double* sums, int64_t all, int64_t begin,
                                      int64_t end) {
  DGM_DISPATCH(args.dtype, interpolate_backward_sums_loop<T>(args, sums, all, begin, end));
}

// Sum of the squares of n numbers in double: no gradient of fp32 overflows or vanishes. Eight lanes, four sums a lane.
template <class C>
static DGM_HD double sum_of_squares(const C* x, int n) {
  constexpr int lanes = 8;
  using Lanes = typename Vector<double, lanes>::type;
  Lanes sums[4] = {};
  int i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes)
    for (int k = 0; k < 4; ++k) {
      typename Vector<C, lanes>::type narrow;
      __builtin_memcpy(&narrow, x + i + k * lanes, sizeof(narrow));
      const Lanes wide = __builtin_convertvector(narrow, Lanes);
      sums[k] += wide * wide;
    }
  double rest = 0;
  for (; i < n; ++i) rest += (double)x[i] * (double)x[i];
  return sum_of_lanes<double, lanes>((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest;
}

template <class T>
static void squares_loop(const NormPenalty& args, double* sums, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const int64_t parts = (args.inner + kPart - 1) / kPart;  // of a sample
  C buffer[kChunk];
  for (int64_t part = begin; part < end; ++part) {
    const int64_t in_sample = part % parts * kPart, left = args.inner - in_sample;
    const int64_t from = part / parts * args.inner + in_sample, to = from + (left < kPart ? left : kPart);
    double sum = 0;
    for (int64_t i = from; i < to; i += kChunk) {
      const int m = to - i < kChunk ? (int)(to - i) : kChunk;
      prefetch((const T*)args.grad + i + 4 * kChunk, m);
      sum += sum_of_squares(read((const T*)args.grad + i, m, buffer), m);
    }
    sums[part] = sum;
  }
}

static void squares(const NormPenalty& args, double* sums, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, squares_loop<T>(args, sums, begin, end));
}

template <class T>
static void scale_samples_loop(const NormPenaltyBackward& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  pointwise<T>({args.grad}, {args.out}, args.inner, begin, end,
               [&](const C* const* in, C* const* out, int from, int to, int64_t sample) {
                 const C factor = (C)args.factor[sample];
                 const C* const grad = in[0];
                 C* const scaled = out[0];
                 DGM_INDEPENDENT
                 for (int j = from; j < to; ++j) scaled[j] = factor * grad[j];
               });
}

static void scale_samples(const NormPenaltyBackward& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, scale_samples_loop<T>(args, begin, end));
}

extern const AdversarialLoops adversarial_loops;
const AdversarialLoops adversarial_loops = {
    gan_sums, gan_slopes, interpolate, interpolate_backward, interpolate_backward_sums, squares, scale_samples};

}  // namespace DGM_LEVEL
}  // namespace dgm
