// GroupNorm + modulation + SiLU: arguments.
//
// On the CPU a unit is what is normalized while it lies in a cache: a group of one sample where channels lie one after
// the other, a whole sample in channels_last. It is taken in parts; sums are made part by part and then over the parts
// in order, so that they do not depend on which thread has which part.
#pragma once
#include "../cpu/levels.h"
#include "../math/lanes.h"
#include "dtypes.h"
#include "range.h"

namespace dgm {

struct NormShape {
  Dtype dtype;  // of x, its gradient and the results
  bool channels_last;
  int64_t samples, channels, pixels, groups;

  DGM_HD int64_t group_channels() const { return channels / groups; }
  DGM_HD int64_t group_size() const { return group_channels() * pixels; }
  DGM_HD int64_t units() const { return channels_last ? samples : samples * groups; }
  DGM_HD int64_t unit_channels() const { return channels_last ? channels : group_channels(); }
  DGM_HD int64_t unit_groups() const { return channels_last ? groups : 1; }
  DGM_HD int64_t unit_size() const { return unit_channels() * pixels; }

  // A part is a range of channels and of pixels of a unit, of about kNormPart elements.
  int64_t part_pixels() const;
  int64_t part_channels() const;
  int64_t pixel_parts() const { return (pixels + part_pixels() - 1) / part_pixels(); }
  int64_t parts() const { return pixel_parts() * ((unit_channels() + part_channels() - 1) / part_channels()); }
};

// 16 kB in bf16: the two passes of the moments stay in the first-level cache.
constexpr int64_t kNormPart = 8192;

inline int64_t NormShape::part_pixels() const {
  const int64_t wanted = channels_last ? kNormPart / channels : kNormPart;
  return wanted > pixels ? pixels : (wanted > 0 ? wanted : 1);
}

inline int64_t NormShape::part_channels() const {
  if (channels_last) return channels;
  const int64_t wanted = kNormPart / pixels, all = group_channels();
  return wanted > all ? all : (wanted > 0 ? wanted : 1);
}

// weight, bias [C], scale or shift [N, C]; no data: not given
struct NormParameter {
  const void* data = nullptr;
  Dtype dtype = Dtype::f32;
  int64_t sample_stride = 0, channel_stride = 0;
};

// Sums over a part of a group of x - shift and of its square, the shift being close to the mean.
struct NormMoments {
  double shift, sum, squares;
};

// Sums over a part of a channel of dh and dh (x - mean).
struct NormSums {
  double dh, dh_x;
};

struct NormForward {
  NormShape shape;
  const void* x;
  NormParameter weight, bias, scale, shift;
  double eps;
  void* y;
  void *mean, *rstd;  // [N, groups], in the compute type
  // scratch of the CPU: [units, parts, unit_groups]; [3, N, C] in the compute type: mean, a and b of each channel
  NormMoments* moments = nullptr;
  void* coefficients = nullptr;
};

struct NormGradientOf {
  void* data = nullptr;  // dense; null: not wanted
  Dtype dtype = Dtype::f32;
};

struct NormBackward {
  NormShape shape;
  const void *grad, *x;
  const void *mean, *rstd;
  NormParameter weight, bias, scale, shift;
  void* dx;
  NormGradientOf dweight, dbias, dscale, dshift;
  NormSums* totals;  // scratch [N, C]: sums over a channel of dh and dh xhat
  // scratch of the CPU: [N, C, pixel_parts]; [6, N, C]: mean, a and b; p, q and t of dx = p dh + q (x - mean) + t
  NormSums* sums = nullptr;
  void* coefficients = nullptr;
};

#if defined(DGM_CUDA) || defined(DGM_EMULATED)

struct NormLaunches {
  void (*forward)(const NormForward& args, void* stream);
  void (*backward)(const NormBackward& args, void* stream);
};

#else

// The moments of a part; then the mean, rstd and coefficients of a unit; then y of a part.
struct NormForwardLoops {
  void (*moments)(const NormForward& args, int64_t unit, int64_t part);
  void (*coefficients)(const NormForward& args, int64_t unit);
  void (*apply)(const NormForward& args, int64_t unit, int64_t part);
};

// The coefficients of h of a unit; the sums of a part; the coefficients of dx of a unit; dx of a part. `dh`
// [unit_size], in the compute type, keeps dh in between; null: it is made again. At last dweight and dbias of some
// channels.
struct NormBackwardLoops {
  void (*h_coefficients)(const NormBackward& args, int64_t unit);
  void (*sums)(const NormBackward& args, int64_t unit, int64_t part, void* dh);
  void (*dx_coefficients)(const NormBackward& args, int64_t unit);
  void (*dx)(const NormBackward& args, int64_t unit, int64_t part, const void* dh);
  void (*parameters)(const NormBackward& args, int64_t begin, int64_t end);
};

#endif

}  // namespace dgm

#if defined(DGM_CUDA) || defined(DGM_EMULATED)
DGM_LOOPS(NormLaunches, norm_launches)
#else
DGM_LOOPS(NormForwardLoops, norm_forward_loops)
DGM_LOOPS(NormBackwardLoops, norm_backward_loops)
#endif
