#include "diffusion_loops.h"

#include "../math/diffusion.h"
#include "pointwise.h"
#include "tile.h"

namespace dgm {
namespace DGM_LEVEL {

template <class T, Target target>
static void q_sample_loop(const QSample& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const auto body = [&](const C* const* in, C* const* out, int from, int to, int64_t sample) {
    const C signal = (C)args.signal[args.t[sample]], sigma = (C)args.sigma[args.t[sample]];
    const C *x0 = in[0], *eps = in[1];
    C* const x_t = out[0];
    C* const wanted = target == Target::none ? nullptr : out[1];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      x_t[j] = noised(signal, sigma, x0[j], eps[j]);
      if (target == Target::eps) wanted[j] = eps[j];
      if (target == Target::v) wanted[j] = velocity(signal, sigma, x0[j], eps[j]);
    }
  };
  if constexpr (target == Target::none)
    pointwise<T>({args.x0}, {args.x_t}, args.noise, args.inner, begin, end, body);
  else
    pointwise<T>({args.x0}, {args.x_t, args.wanted}, args.noise, args.inner, begin, end, body);
}

// fp32, noise drawn, in logical order: the noise never leaves the registers.
static void q_sample_in_registers(const QSample& args, int64_t begin, int64_t end) {
  using L = SimdLanes;
  const uint32_t k0 = (uint32_t)args.noise.seed, k1 = (uint32_t)(args.noise.seed >> 32);
  const uint64_t first = args.noise.first;
  const float* x0 = (const float*)args.x0.data;
  float* x_t = (float*)args.x_t.data;
  const auto edge = [&](int64_t i, int64_t to, float signal, float sigma) {
    float eps[kTile];
    normals(eps, args.noise.seed, first + (uint64_t)i, to - i);
    for (int64_t j = i; j < to; ++j) x_t[j] = noised(signal, sigma, x0[j], eps[j - i]);
  };
  for (int64_t i = begin; i < end;) {
    const int64_t sample = i / args.inner;
    const int64_t to = (sample + 1) * args.inner < end ? (sample + 1) * args.inner : end;
    const float signal = (float)args.signal[args.t[sample]], sigma = (float)args.sigma[args.t[sample]];
    const int64_t odd = (int64_t)((4 - (first + (uint64_t)i) % 4) % 4), head = i + odd < to ? i + odd : to;
    if (head > i) edge(i, head, signal, sigma);
    for (i = head; i + kTile <= to; i += kTile) {
      L::F eps[4], x[4];
      prefetch(x0 + i + 16 * kTile, kTile);
      draw_tile(eps, k0, k1, (first + (uint64_t)i) / 4);
      __builtin_memcpy(x, x0 + i, sizeof(x));
      for (int k = 0; k < 4; ++k) x[k] = noised(L::number(signal), L::number(sigma), x[k], eps[k]);
      __builtin_memcpy(x_t + i, x, sizeof(x));
    }
    if (i < to) edge(i, to, signal, sigma);
    i = to;
  }
}

static void q_sample(const QSample& args, int64_t begin, int64_t end) {
  const bool in_order = args.noise.given == nullptr && args.noise.channels == 0 && args.inner >= kTile;
  if (args.dtype == Dtype::f32 && args.target == Target::none && in_order)
    return q_sample_in_registers(args, begin, end);
  DGM_DISPATCH(
      args.dtype, switch (args.target) {
        case Target::none: q_sample_loop<T, Target::none>(args, begin, end); break;
        case Target::eps: q_sample_loop<T, Target::eps>(args, begin, end); break;
        case Target::v: q_sample_loop<T, Target::v>(args, begin, end); break;
      });
}

template <class T>
static void scale_loop(const Scale& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  pointwise<T>({args.x}, {args.out}, args.inner, begin, end,
               [&](const C* const* in, C* const* out, int from, int to, int64_t sample) {
                 const C factor = (C)args.factor[args.t[sample]];
                 const C* const x = in[0];
                 C* const scaled = out[0];
                 DGM_INDEPENDENT
                 for (int j = from; j < to; ++j) scaled[j] = factor * x[j];
               });
}

static void scale(const Scale& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, scale_loop<T>(args, begin, end));
}

template <class T>
static void posterior_loop(const Posterior& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  pointwise<T>({args.x0, args.x}, {args.mean}, args.inner, begin, end,
               [&](const C* const* in, C* const* out, int from, int to, int64_t sample) {
                 const C by_x0 = (C)args.by_x0[args.t[sample]], by_x = (C)args.by_x[args.t[sample]];
                 const C *x0 = in[0], *x = in[1];
                 C* const mean = out[0];
                 DGM_INDEPENDENT
                 for (int j = from; j < to; ++j) mean[j] = by_x0 * x0[j] + by_x * x[j];
               });
}

template <class T>
static void posterior_backward_loop(const Posterior& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  pointwise<T>({args.grad}, {args.dx0, args.dx}, args.inner, begin, end,
               [&](const C* const* in, C* const* out, int from, int to, int64_t sample) {
                 const C by_x0 = (C)args.by_x0[args.t[sample]], by_x = (C)args.by_x[args.t[sample]];
                 const C* const grad = in[0];
                 C *const dx0 = out[0], *const dx = out[1];
                 DGM_INDEPENDENT
                 for (int j = from; j < to; ++j) {
                   dx0[j] = by_x0 * grad[j];
                   dx[j] = by_x * grad[j];
                 }
               });
}

static void posterior(const Posterior& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, posterior_loop<T>(args, begin, end));
}

static void posterior_backward(const Posterior& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, posterior_backward_loop<T>(args, begin, end));
}

extern const DiffusionLoops diffusion_loops;
const DiffusionLoops diffusion_loops = {q_sample, scale, posterior, posterior_backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
