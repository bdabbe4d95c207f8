#include "../kernels/diffusion.h"
#include "pointwise.h"
#include "tile.h"

namespace dgm {
namespace DGM_LEVEL {

// fp32, noise drawn, in logical order: the noise never leaves the registers. False where that is not so.
static bool q_sample_in_registers(const QSample& args, const Range& range) {
  using L = SimdLanes;
  const bool in_order = args.noise.given == nullptr && args.noise.channels == 0 && args.inner >= kTile;
  if (args.dtype != Dtype::f32 || args.target != Target::none || !in_order) return false;
  const uint64_t seed = (uint64_t)*args.noise.seed, first = args.noise.first;
  const uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  const float* x0 = (const float*)args.x0.data;
  float* x_t = (float*)args.x_t.data;
  const auto edge = [&](int64_t i, int64_t to, float signal, float sigma) {
    float eps[kTile];
    normals(eps, seed, first + (uint64_t)i, to - i);
    for (int64_t j = i; j < to; ++j) x_t[j] = noised(signal, sigma, x0[j], eps[j - i]);
  };
  for (int64_t i = range.begin; i < range.end;) {
    const int64_t sample = i / args.inner;
    const int64_t to = (sample + 1) * args.inner < range.end ? (sample + 1) * args.inner : range.end;
    const NoiseLevel level = args.steps.level(args.steps.t[sample]);
    const float signal = (float)level.signal, sigma = (float)level.sigma;
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
  return true;
}
#define DGM_Q_SAMPLE_IN_REGISTERS

}  // namespace DGM_LEVEL
}  // namespace dgm

#include "../kernels/diffusion_kernels.h"
