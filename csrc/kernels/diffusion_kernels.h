// Diffusion noising: kernels. Included by a driver's translation unit.
#include "diffusion.h"
#include "work.h"

namespace dgm {
namespace DGM_LEVEL {

template <class T, Target target>
struct NoisedSample : KernelBase<T, 1, target == Target::none ? 1 : 2, 0, true> {
  using C = compute_t<T>;
  struct Sample {
    C signal, sigma;
  };

  StepTable steps;

  DGM_HD Sample of(int64_t n) const {
    const NoiseLevel level = steps.level(steps.t[n]);
    return {(C)level.signal, (C)level.sigma};
  }

  DGM_HD void operator()(const Sample& s, In<C> in, Out<C> out, int from, int to) const {
    const C *x0 = in[0], *eps = in[1];
    C *const x_t = out[0], *const wanted = out[NoisedSample::kOut - 1];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      x_t[j] = noised(s.signal, s.sigma, x0[j], eps[j]);
      if (target == Target::eps) wanted[j] = eps[j];
      if (target == Target::v) wanted[j] = velocity(s.signal, s.sigma, x0[j], eps[j]);
    }
  }
};

template <class T, Target target>
static void q_sample_as(const QSample& args, const Range& elements) {
  Work<NoisedSample<T, target>> work = {{{}, args.steps}, args.inner, {args.x0}, {args.x_t}, args.noise};
  if (target != Target::none) work.out[work.kernel.kOut - 1] = args.wanted;
  run(work, elements);
}

static void q_sample(const QSample& args, const Range& elements) {
#if defined(DGM_Q_SAMPLE_IN_REGISTERS)
  if (q_sample_in_registers(args, elements)) return;
#endif
  DGM_DISPATCH(
      args.dtype, switch (args.target) {
        case Target::none: q_sample_as<T, Target::none>(args, elements); break;
        case Target::eps: q_sample_as<T, Target::eps>(args, elements); break;
        case Target::v: q_sample_as<T, Target::v>(args, elements); break;
      });
}

// outs = factors[k] x of the sample
template <class T, int count>
struct ScaledSample : KernelBase<T, 1, count, 0, false> {
  using C = compute_t<T>;
  struct Sample {
    C factor[count];
  };

  StepTable steps;
  int rows[count];

  DGM_HD Sample of(int64_t n) const {
    Sample s;
    for (int k = 0; k < count; ++k) s.factor[k] = (C)steps.at(rows[k], steps.t[n]);
    return s;
  }

  DGM_HD void operator()(const Sample& s, In<C> in, Out<C> out, int from, int to) const {
    const C* const x = in[0];
    C *const first = out[0], *const last = out[count - 1];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) {
      first[j] = s.factor[0] * x[j];
      if (count > 1) last[j] = s.factor[count - 1] * x[j];
    }
  }
};

static void scale(const Scale& args, const Range& elements) {
  DGM_DISPATCH(args.dtype,
               run(Work<ScaledSample<T, 1>>{{{}, args.steps, {args.row}}, args.inner, {args.x}, {args.out}}, elements));
}

template <class T>
struct PosteriorMean : KernelBase<T, 2, 1, 0, false> {
  using C = compute_t<T>;
  struct Sample {
    C by_x0, by_x;
  };

  StepTable steps;

  DGM_HD Sample of(int64_t n) const { return {(C)steps.at(kMeanX0, steps.t[n]), (C)steps.at(kMeanX, steps.t[n])}; }

  DGM_HD void operator()(const Sample& s, In<C> in, Out<C> out, int from, int to) const {
    const C *x0 = in[0], *x = in[1];
    C* const mean = out[0];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) mean[j] = s.by_x0 * x0[j] + s.by_x * x[j];
  }
};

static void posterior(const Posterior& args, const Range& elements) {
  DGM_DISPATCH(args.dtype,
               run(Work<PosteriorMean<T>>{{{}, args.steps}, args.inner, {args.x0, args.x}, {args.mean}}, elements));
}

static void posterior_backward(const Posterior& args, const Range& elements) {
  DGM_DISPATCH(
      args.dtype,
      run(Work<ScaledSample<T, 2>>{{{}, args.steps, {kMeanX0, kMeanX}}, args.inner, {args.grad}, {args.dx0, args.dx}},
          elements));
}

extern const DiffusionLoops diffusion_loops;
const DiffusionLoops diffusion_loops = {q_sample, scale, posterior, posterior_backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
