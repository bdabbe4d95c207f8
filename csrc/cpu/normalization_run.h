// GroupNorm + modulation + SiLU on the threads of the CPU.
#pragma once
#include <memory>

#include "../kernels/normalization.h"
#include "../ops/queue.h"

namespace dgm {
namespace {

template <class T>
std::unique_ptr<T[]> scratch(int64_t n) {
  return std::unique_ptr<T[]>(new T[n]);
}

// Numbers of the compute type.
struct Workspace {
  std::unique_ptr<char[]> memory;
  Workspace(const NormShape& s, int64_t n) : memory(scratch<char>(n * (s.dtype == Dtype::f64 ? 8 : 4))) {}
  void* at(const NormShape& s, int64_t i) { return memory.get() + i * (s.dtype == Dtype::f64 ? 8 : 4); }
};

// Units go to threads whole, so that every pass but the first reads from a cache, unless there are too few of them.
bool by_units(const NormShape& s) {
  return s.parts() == 1 || s.units() >= 4 * (int64_t)torch::stable::get_num_threads();
}

template <class Body>
void for_units(const NormShape& s, const Body& body) {
  torch::stable::parallel_for(0, s.units(), kGrainDrawn / s.unit_size() + 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) body(unit);
  });
}

template <class Body>
void for_parts(const NormShape& s, const Body& body) {
  const int64_t parts = s.parts();
  torch::stable::parallel_for(0, s.units() * parts, kGrainDrawn / kNormPart, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i / parts, i % parts);
  });
}

void run_forward(NormForward& args, const Queue&, const Tensor&) {
  const NormShape& s = args.shape;
  const auto moments = scratch<NormMoments>(s.units() * s.parts() * s.unit_groups());
  Workspace coefficients(s, 3 * s.samples * s.channels);
  args.moments = moments.get();
  args.coefficients = coefficients.at(s, 0);
  const NormForwardLoops& loops = pick_norm_forward_loops(level());
  if (by_units(s)) {
    for_units(s, [&](int64_t unit) {
      for (int64_t part = 0; part < s.parts(); ++part) loops.moments(args, unit, part);
      loops.coefficients(args, unit);
      for (int64_t part = 0; part < s.parts(); ++part) loops.apply(args, unit, part);
    });
  } else {
    for_parts(s, [&](int64_t unit, int64_t part) { loops.moments(args, unit, part); });
    for (int64_t unit = 0; unit < s.units(); ++unit) loops.coefficients(args, unit);
    for_parts(s, [&](int64_t unit, int64_t part) { loops.apply(args, unit, part); });
  }
}

// dh is kept between the two passes, for units of up to 1 MB of it; it lies in the memory of dx where it fits there.
constexpr int64_t kKept = 1 << 18;

void run_backward(NormBackward& args, const Queue&, const Tensor&) {
  const NormShape& s = args.shape;
  const auto sums = scratch<NormSums>(s.samples * s.channels * s.pixel_parts());
  const auto totals = scratch<NormSums>(s.samples * s.channels);
  Workspace coefficients(s, 6 * s.samples * s.channels);
  args.sums = sums.get();
  args.totals = totals.get();
  args.coefficients = coefficients.at(s, 0);
  const NormBackwardLoops& loops = pick_norm_backward_loops(level());
  const int64_t unit_size = s.unit_size(), parts = s.parts();
  const bool in_place = s.dtype == Dtype::f64 || s.dtype == Dtype::f32, kept = in_place || unit_size <= kKept;
  const auto place = [&](int64_t unit, char* buffer) -> void* {
    return in_place ? (char*)args.dx + unit * unit_size * (s.dtype == Dtype::f64 ? 8 : 4) : buffer;
  };
  if (by_units(s)) {
    torch::stable::parallel_for(0, s.units(), kGrainDrawn / unit_size + 1, [&](int64_t begin, int64_t end) {
      const auto buffer = scratch<float>(kept && !in_place ? unit_size : 0);
      for (int64_t unit = begin; unit < end; ++unit) {
        void* const dh = kept ? place(unit, (char*)buffer.get()) : nullptr;
        loops.h_coefficients(args, unit);
        for (int64_t part = 0; part < parts; ++part) loops.sums(args, unit, part, dh);
        loops.dx_coefficients(args, unit);
        for (int64_t part = 0; part < parts; ++part) loops.dx(args, unit, part, dh);
      }
    });
  } else {
    const auto buffer = scratch<float>(kept && !in_place ? s.units() * unit_size : 0);
    const auto dh = [&](int64_t unit) {
      return kept ? place(unit, (char*)(buffer.get() + unit * unit_size)) : nullptr;
    };
    for (int64_t unit = 0; unit < s.units(); ++unit) loops.h_coefficients(args, unit);
    for_parts(s, [&](int64_t unit, int64_t part) { loops.sums(args, unit, part, dh(unit)); });
    for (int64_t unit = 0; unit < s.units(); ++unit) loops.dx_coefficients(args, unit);
    for_parts(s, [&](int64_t unit, int64_t part) { loops.dx(args, unit, part, dh(unit)); });
  }
  torch::stable::parallel_for(0, s.channels, kGrainDrawn / s.samples + 1,
                              [&](int64_t begin, int64_t end) { loops.parameters(args, begin, end); });
}

}  // namespace
}  // namespace dgm
