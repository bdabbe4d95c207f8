// weight, bias, scale and shift as the loops read them.
#pragma once
#include "convert.h"
#include "normalization.h"

namespace dgm {

DGM_HD double value(const NormParameter& p, int64_t sample, int64_t channel) {
  const int64_t i = sample * p.sample_stride + channel * p.channel_stride;
  switch (p.dtype) {
    case Dtype::f64: return ((const double*)p.data)[i];
    case Dtype::f32: return ((const float*)p.data)[i];
    case Dtype::bf16: return to_float(((const bf16*)p.data)[i]);
    default: return to_float(((const f16*)p.data)[i]);
  }
}

DGM_HD double value_or(const NormParameter& p, int64_t sample, int64_t channel, double otherwise) {
  return p.data == nullptr ? otherwise : value(p, sample, channel);
}

// weight (1 + scale) and bias (1 + scale) + shift
template <class Args>
DGM_HD void modulated(const Args& args, int64_t sample, int64_t channel, double& w, double& b) {
  const double factor = 1.0 + value_or(args.scale, sample, channel, 0.0);
  w = value_or(args.weight, 0, channel, 1.0) * factor;
  b = value_or(args.bias, 0, channel, 0.0) * factor + value_or(args.shift, sample, channel, 0.0);
}

// A gradient, where it is wanted.
DGM_HD void put(const NormGradientOf& out, int64_t i, double x) {
  if (out.data == nullptr) return;
  switch (out.dtype) {
    case Dtype::f64: ((double*)out.data)[i] = x; break;
    case Dtype::f32: ((float*)out.data)[i] = (float)x; break;
    case Dtype::bf16: ((bf16*)out.data)[i] = to_bf16((float)x); break;
    default: ((f16*)out.data)[i] = to_f16((float)x);
  }
}

}  // namespace dgm
