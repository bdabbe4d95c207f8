// The adversarial game on the CPU: GAN losses on scores, interpolates, penalties on gradients' norms. All tensors lie
// densely in one memory order; `inner` elements make a sample.
#pragma once
#include "../math/adversarial.h"
#include "dtypes.h"
#include "levels.h"
#include "operand.h"
#include "weight_source.h"

namespace dgm {

struct GanLoss {
  Dtype dtype;
  GanKind kind;
  const void *real, *fake;  // scores; no real ones: the generator's loss alone
  int64_t real_count, fake_count;
  double*
      sums;  // [parts, 2]: over parts of kPart scores, first those of real, the discriminator's and generator's loss
};

struct GanSlopes {
  Dtype dtype;
  GanKind kind;
  const void* scores;
  bool real;  // whose they are
  void* out;
  double by_d, by_g;  // gradient by each score's loss; what is 0 plays no part, not even where a slope is infinite
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
  const void* grad;
  int64_t inner;
};

struct NormPenaltyBackward {
  Dtype dtype;
  Operand grad, out;
  int64_t inner;
  const double* factor;  // [N]: what each sample's gradient is multiplied by
};

struct AdversarialLoops {
  // parts begin to end
  void (*gan_sums)(const GanLoss& args, int64_t begin, int64_t end);
  // elements begin to end, in memory order
  void (*gan_slopes)(const GanSlopes& args, int64_t begin, int64_t end);
  void (*interpolate)(const Interpolate& args, int64_t begin, int64_t end);
  void (*interpolate_backward)(const InterpolateBackward& args, int64_t begin, int64_t end);
  // the same for parts begin to end (counted over all samples), with the sums of grad (x - y) over each
  void (*interpolate_backward_sums)(const InterpolateBackward& args, double* sums, int64_t all, int64_t begin,
                                    int64_t end);
  // sums[part] of squares over the parts begin to end
  void (*squares)(const NormPenalty& args, double* sums, int64_t begin, int64_t end);
  void (*scale_samples)(const NormPenaltyBackward& args, int64_t begin, int64_t end);
};

}  // namespace dgm

DGM_LOOPS(AdversarialLoops, adversarial_loops)
