// Losses of the two players of a GAN on one score each, and the penalty on a gradient's norm.
#pragma once
#include "softplus.h"

namespace dgm {

enum class GanKind { minmax, nonsaturating, least_squares, wasserstein, hinge };

// In the forms below a NaN passes.

// The discriminator's loss on the score x of a real sample.
template <GanKind kind, class C>
DGM_HD C real_loss(C x) {
  if constexpr (kind == GanKind::least_squares) return (C)0.5 * (x - (C)1) * (x - (C)1);
  if constexpr (kind == GanKind::wasserstein) return -x;
  if constexpr (kind == GanKind::hinge) return x > (C)1 ? (C)0 : (C)1 - x;
  return softplus(-x);
}

// Its loss on the score x of a generated sample.
template <GanKind kind, class C>
DGM_HD C fake_loss(C x) {
  if constexpr (kind == GanKind::least_squares) return (C)0.5 * x * x;
  if constexpr (kind == GanKind::wasserstein) return x;
  if constexpr (kind == GanKind::hinge) return x < (C)-1 ? (C)0 : (C)1 + x;
  return softplus(x);
}

// The generator's loss on that score.
template <GanKind kind, class C>
DGM_HD C generator_loss(C x) {
  if constexpr (kind == GanKind::minmax) return -softplus(x);
  if constexpr (kind == GanKind::nonsaturating) return softplus(-x);
  if constexpr (kind == GanKind::least_squares) return (C)0.5 * (x - (C)1) * (x - (C)1);
  return -x;
}

// The derivatives of the three. At a kink of the hinge loss: 0, as torch's relu has it.
template <GanKind kind, class C>
DGM_HD C real_slope(C x) {
  if constexpr (kind == GanKind::least_squares) return x - (C)1;
  if constexpr (kind == GanKind::wasserstein) return (C)-1;
  if constexpr (kind == GanKind::hinge) return x >= (C)1 ? (C)0 : (C)-1;
  return -sigmoid(-x);
}

template <GanKind kind, class C>
DGM_HD C fake_slope(C x) {
  if constexpr (kind == GanKind::least_squares) return x;
  if constexpr (kind == GanKind::wasserstein) return (C)1;
  if constexpr (kind == GanKind::hinge) return x <= (C)-1 ? (C)0 : (C)1;
  return sigmoid(x);
}

template <GanKind kind, class C>
DGM_HD C generator_slope(C x) {
  if constexpr (kind == GanKind::minmax) return -sigmoid(x);
  if constexpr (kind == GanKind::nonsaturating) return -sigmoid(-x);
  if constexpr (kind == GanKind::least_squares) return x - (C)1;
  return (C)-1;
}

// (norm - target)^2; one-sided: 0 below the target. In double: norm - target cancels where training wants the norm.
DGM_HD double norm_penalty(double norm, double target, bool one_sided) {
  const double excess = norm - target;
  return one_sided && excess <= 0 ? 0 : excess * excess;
}

// Its derivative by the norm, over the norm: what the gradient of the penalty has before the vector itself. 0 where the
// vector is 0 (but 2 for the target 0, where the penalty is smooth there).
DGM_HD double norm_penalty_slope(double norm, double target, bool one_sided) {
  if (one_sided && norm <= target) return 0;
  if (norm == 0) return target == 0 ? 2 : 0;
  return 2 * (norm - target) / norm;
}

}  // namespace dgm
