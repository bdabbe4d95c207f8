#include "diffusion_loops.h"

#include "../math/diffusion.h"
#include "normals.h"
#include "samples.h"

namespace dgm {
namespace DGM_LEVEL {

template <class T, Target target>
static void q_sample_loop(const QSample& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  NoiseReader<T> noise(args.noise);
  C x0_buffer[kChunk], eps_buffer[kChunk], x_t_buffer[kChunk], wanted_buffer[kChunk];
  const int chunk = sizeof(T) == sizeof(C) && args.noise.given != nullptr ? kLongChunk : kChunk;
  for (int64_t i = begin; i < end; i += chunk) {
    const int m = end - i < chunk ? (int)(end - i) : chunk;
    if (args.noise.given == nullptr) {
      prefetch((const T*)args.x0 + i, m);
      prefetch((const T*)args.x_t + i, m);
    }
    const C* __restrict eps = noise.read(i, m, eps_buffer);
    const C* __restrict x0 = read((const T*)args.x0 + i, m, x0_buffer);
    T* const x_t_memory = (T*)args.x_t + i;
    T* const wanted_memory = target == Target::none ? nullptr : (T*)args.wanted + i;
    C* __restrict x_t = place(x_t_memory, x_t_buffer);
    C* __restrict wanted = place(wanted_memory, wanted_buffer);
    for_each_sample(i, m, args.inner, [&](int from, int to, int64_t sample) {
      const C signal = (C)args.signal[args.t[sample]], sigma = (C)args.sigma[args.t[sample]];
      DGM_INDEPENDENT
      for (int j = from; j < to; ++j) {
        x_t[j] = noised(signal, sigma, x0[j], eps[j]);
        if (target == Target::eps) wanted[j] = eps[j];
        if (target == Target::v) wanted[j] = velocity(signal, sigma, x0[j], eps[j]);
      }
    });
    write(x_t_memory, m, x_t);
    if (target != Target::none) write(wanted_memory, m, wanted);
  }
}

static void q_sample(const QSample& args, int64_t begin, int64_t end) {
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
  C x_buffer[kChunk], out_buffer[kChunk];
  const int chunk = sizeof(T) == sizeof(C) ? kLongChunk : kChunk;
  for (int64_t i = begin; i < end; i += chunk) {
    const int m = end - i < chunk ? (int)(end - i) : chunk;
    const C* __restrict x = read((const T*)args.x + i, m, x_buffer);
    T* const memory = (T*)args.out + i;
    C* __restrict out = place(memory, out_buffer);
    for_each_sample(i, m, args.inner, [&](int from, int to, int64_t sample) {
      const C factor = (C)args.factor[args.t[sample]];
      DGM_INDEPENDENT
      for (int j = from; j < to; ++j) out[j] = factor * x[j];
    });
    write(memory, m, out);
  }
}

static void scale(const Scale& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, scale_loop<T>(args, begin, end));
}

extern const DiffusionLoops diffusion_loops;
const DiffusionLoops diffusion_loops = {q_sample, scale};

}  // namespace DGM_LEVEL
}  // namespace dgm
