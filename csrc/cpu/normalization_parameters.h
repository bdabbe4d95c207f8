// weight, bias, scale and shift as the loops read them.
#pragma once
#include "chunks.h"
#include "normalization_loops.h"

namespace dgm {
namespace DGM_LEVEL {

inline double value(const NormParameter& p, int64_t sample, int64_t channel) {
  const int64_t i = sample * p.sample_stride + channel * p.channel_stride;
  switch (p.dtype) {
    case Dtype::f64: return ((const double*)p.data)[i];
    case Dtype::f32: return ((const float*)p.data)[i];
    case Dtype::bf16: return to_float(((const bf16*)p.data)[i]);
    default: return to_float(((const f16*)p.data)[i]);
  }
}

inline double value_or(const NormParameter& p, int64_t sample, int64_t channel, double otherwise) {
  return p.data == nullptr ? otherwise : value(p, sample, channel);
}

// weight (1 + scale) and bias (1 + scale) + shift
template <class Args>
static DGM_HD void modulated(const Args& args, int64_t sample, int64_t channel, double& w, double& b) {
  const double factor = 1.0 + value_or(args.scale, sample, channel, 0.0);
  w = value_or(args.weight, 0, channel, 1.0) * factor;
  b = value_or(args.bias, 0, channel, 0.0) * factor + value_or(args.shift, sample, channel, 0.0);
}

// Where the numbers of a unit's channels lie in an array [N, C], and which channels they are.
struct Channels {
  int64_t sample, first, row;

  Channels(const NormShape& s, int64_t unit) {
    sample = s.channels_last ? unit : unit / s.groups;
    first = s.channels_last ? 0 : unit % s.groups * s.group_channels();
    row = sample * s.channels;
  }
};

}  // namespace DGM_LEVEL
}  // namespace dgm
