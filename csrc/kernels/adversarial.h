// The adversarial game: GAN losses on scores, interpolates, penalties on gradients' norms. Arguments. All tensors lie
// densely in one memory order; `inner` elements make a sample.
#pragma once
#include "../cpu/levels.h"
#include "dtypes.h"
#include "operand.h"
#include "range.h"
#include "weight_source.h"

namespace dgm {

// Whose scores a loss is summed over: the discriminator's loss on real ones; its loss and the generator's on generated
// ones; the generator's alone.
enum class Scores { real, fake, generator };

struct GanLoss {
  Dtype dtype;
  GanKind kind;
  Scores which;
  Operand scores;
  int64_t count;
};

// A number in the compute type; without data it plays no part, not even where a slope is infinite.
struct Scalar {
  const void* data = nullptr;
};

struct GanSlopes {
  Dtype dtype;
  GanKind kind;
  bool real;  // whose scores they are
  Operand scores, out;
  int64_t count;
  Scalar by_d, by_g;  // gradients by the mean losses
};

struct Interpolate {
  Dtype dtype;
  Operand x, y, out;
  int64_t inner;
  WeightSource alpha;
};

struct InterpolateBackward {
  Dtype dtype;
  Operand grad, x, y, dx, dy;
  int64_t inner;
  WeightSource alpha;
};

struct NormPenalty {
  Dtype dtype;
  Operand grad;
  int64_t inner;
};

struct NormPenaltyBackward {
  Dtype dtype;
  Operand grad, out;
  int64_t inner;
  const void* grad_penalty;  // [N], in the compute type
  const double* squares;     // [N]: of each sample's norm
  double target;
  bool one_sided;
};

struct AdversarialLoops {
  void (*gan_sums)(const GanLoss& args, const SampleSums& sums, const Range& parts);
  void (*gan_slopes)(const GanSlopes& args, const Range& elements);
  void (*interpolate)(const Interpolate& args, const Range& elements);
  void (*interpolate_backward)(const InterpolateBackward& args, const Range& elements);
  // the same, with the sums of grad (x - y) over each sample
  void (*interpolate_backward_sums)(const InterpolateBackward& args, const SampleSums& sums, const Range& parts);
  // sums of squares
  void (*squares)(const NormPenalty& args, const SampleSums& sums, const Range& parts);
  void (*penalty_backward)(const NormPenaltyBackward& args, const Range& elements);
};

}  // namespace dgm

DGM_LOOPS(AdversarialLoops, adversarial_loops)
