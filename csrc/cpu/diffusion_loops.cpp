#include "diffusion_loops.h"

#include "../math/diffusion.h"
#include "normals.h"
#include "samples.h"
#include "tile.h"

namespace dgm {
namespace DGM_LEVEL {

template <class T, Target target>
static void q_sample_loop(const QSample& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  NoiseReader<T> noise(args.noise);
  C x0_buffer[kChunk], eps_buffer[kChunk], x_t_buffer[kChunk], wanted_buffer[kChunk];
  for (int64_t i = begin; i < end; i += kChunk) {
    const int m = end - i < kChunk ? (int)(end - i) : kChunk;
    if (args.noise.given == nullptr) {
      prefetch((const T*)args.x0 + i, m);  // while the noise is made
    } else if (sizeof(T) >= 4) {           // two streams outrun the hardware: 1.45 instead of 1.55 times torch.add
      prefetch((const T*)args.x0 + i + 4 * kChunk, m);
      prefetch((const T*)args.noise.given + i + 4 * kChunk, m);
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

// fp32, noise drawn, in logical order: the noise never leaves the registers.
static void q_sample_in_registers(const QSample& args, int64_t begin, int64_t end) {
  using L = SimdLanes;
  const uint32_t k0 = (uint32_t)args.noise.seed, k1 = (uint32_t)(args.noise.seed >> 32);
  const uint64_t first = args.noise.first;
  const float* x0 = (const float*)args.x0;
  float* x_t = (float*)args.x_t;
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
  C x_buffer[kChunk], out_buffer[kChunk];
  for (int64_t i = begin; i < end; i += kChunk) {
    const int m = end - i < kChunk ? (int)(end - i) : kChunk;
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
