#include "../math/normalization.h"
#include "normalization_blocks.h"

namespace dgm {
namespace DGM_LEVEL {

// Elements of one group in a part.
static int64_t elements_of(const NormShape& s, int64_t part) {
  const int64_t pixel = part % s.pixel_parts() * s.part_pixels(), pixels_left = s.pixels - pixel;
  const int64_t pixels = pixels_left < s.part_pixels() ? pixels_left : s.part_pixels();
  if (s.channels_last) return pixels * s.group_channels();
  const int64_t left = s.group_channels() - part / s.pixel_parts() * s.part_channels();
  return pixels * (left < s.part_channels() ? left : s.part_channels());
}

// Of numbers so far apart that their squares overflow in fp32.
template <class T>
static __attribute__((noinline)) void moments_in_double(const NormForward& args, int64_t unit, int64_t part,
                                                        int64_t group, NormMoments& out) {
  const NormShape& s = args.shape;
  out.sum = out.squares = 0;
  for_each_block(s, unit, part, true, [&](const Block& b) {
    for_each_row(b, [&](auto rows, int64_t offset, int lanes) {
      const RowsIn<T> x((const T*)args.x + offset, b.stride, rows.value, lanes);
      for_each_group(s, b, [&](int from, int to, int64_t g) {
        for (int j = from; j < to && j < lanes && g == group; ++j)
          for (int k = 0; k < rows.value; ++k) {
            const double d = (double)x(k, j) - out.shift;
            out.sum += d;
            out.squares += d * d;
          }
      });
    });
  });
}

template <class T>
static void moments_loop(const NormForward& args, int64_t unit, int64_t part) {
  using C = compute_t<T>;
  const NormShape& s = args.shape;
  const T* const all = (const T*)args.x;
  NormMoments* const out = args.moments + (unit * s.parts() + part) * s.unit_groups();
  const double n = (double)elements_of(s, part);
  C sums[kNormLanes + kLanes], squares[kNormLanes + kLanes], shift[kNormLanes];
  for (int64_t g = 0; g < s.unit_groups(); ++g) out[g] = {0, 0, 0};
  for_each_block(s, unit, part, true, [&](const Block& b) {
    for (int j = 0; j < used_lanes(b); ++j) sums[j] = 0;
    for_each_row(b, [&](auto rows, int64_t offset, int lanes) {
      const RowsIn<T> x(all + offset, b.stride, rows.value, lanes);
      DGM_INDEPENDENT
      for (int j = 0; j < lanes; ++j) {
        if constexpr (rows.value == 4)
          sums[j] += (x(0, j) + x(1, j)) + (x(2, j) + x(3, j));
        else
          sums[j] += x(0, j);
      }
    });
    for_each_group(s, b, [&](int from, int to, int64_t g) { out[g].sum += sum_of_run(b, sums, from, to); });
  });
  for (int64_t g = 0; g < s.unit_groups(); ++g) out[g] = {(double)(C)(out[g].sum / n), 0, 0};
  for_each_block(s, unit, part, true, [&](const Block& b) {
    for_each_group(s, b, [&](int from, int to, int64_t g) {
      for (int j = from; j < to; ++j) shift[j] = (C)out[g].shift;
    });
    for (int j = 0; j < used_lanes(b); ++j) sums[j] = squares[j] = 0;
    for_each_row(b, [&](auto rows, int64_t offset, int lanes) {
      const RowsIn<T> x(all + offset, b.stride, rows.value, lanes);
      DGM_INDEPENDENT
      for (int j = 0; j < lanes; ++j) {
        const C from = shift[j];
        C sum = 0, square = 0;
#pragma GCC unroll 4
        for (int k = 0; k < rows.value; ++k) {
          const C d = x(k, j) - from;
          sum += d;
          square = multiply_add(d, d, square);
        }
        sums[j] += sum;
        squares[j] += square;
      }
    });
    for_each_group(s, b, [&](int from, int to, int64_t g) {
      out[g].sum += sum_of_run(b, sums, from, to);
      out[g].squares += sum_of_run(b, squares, from, to);
    });
  });
  for (int64_t g = 0; g < s.unit_groups(); ++g)
    if (out[g].squares > 1e38 && sizeof(C) == 4) moments_in_double<T>(args, unit, part, g, out[g]);
}

// The parts' moments in order (Chan, Golub & LeVeque 1983): mean and sum of squares about it.
static void merge(const NormForward& args, int64_t unit, int64_t group, double& mean, double& squares) {
  const NormShape& s = args.shape;
  const NormMoments* m = args.moments + unit * s.parts() * s.unit_groups() + group;
  double n = 0;
  mean = squares = 0;
  for (int64_t part = 0; part < s.parts(); ++part, m += s.unit_groups()) {
    const double more = (double)elements_of(s, part), from_shift = m->sum / more;
    const double delta = m->shift + from_shift - mean, inside = m->squares - m->sum * from_shift;
    n += more;
    mean += delta * (more / n);
    squares += (inside < 0 ? 0 : inside) + delta * delta * (more * (n - more) / n);
  }
}

template <class T>
static void coefficients_loop(const NormForward& args, int64_t unit) {
  using C = compute_t<T>;
  const NormShape& s = args.shape;
  const Channels of(s, unit);
  C* const coefficients = (C*)args.coefficients + of.row;
  const int64_t size = s.group_channels(), stride = s.samples * s.channels;
  for (int64_t g = 0; g < s.unit_groups(); ++g) {
    double mean, squares;
    merge(args, unit, g, mean, squares);
    const double rstd = 1.0 / __builtin_sqrt(squares / (double)s.group_size() + args.eps);
    ((C*)args.mean)[unit * s.unit_groups() + g] = (C)mean;
    ((C*)args.rstd)[unit * s.unit_groups() + g] = (C)rstd;
    for (int64_t c = of.first + g * size; c < of.first + (g + 1) * size; ++c) {
      double w, b;
      modulated(args, of.sample, c, w, b);
      const NormCoefficients h = norm_coefficients(mean, (double)(C)mean, rstd, w, b);
      coefficients[c] = (C)mean;
      coefficients[stride + c] = (C)h.a;
      coefficients[2 * stride + c] = (C)h.b;
    }
  }
}

template <class T>
static void apply_loop(const NormForward& args, int64_t unit, int64_t part) {
  using C = compute_t<T>;
  const NormShape& s = args.shape;
  const T* const all_x = (const T*)args.x;
  T* const all_y = (T*)args.y;
  const int64_t stride = s.samples * s.channels;
  const C* const coefficients = (const C*)args.coefficients + Channels(s, unit).row;
  C mean[kNormLanes], a[kNormLanes], b[kNormLanes];
  for_each_block(s, unit, part, false, [&](const Block& block) {
    to_lanes(block, coefficients, mean);
    to_lanes(block, coefficients + stride, a);
    to_lanes(block, coefficients + 2 * stride, b);
    for_each_row(block, [&](auto rows, int64_t offset, int lanes) {
      const RowsIn<T> x(all_x + offset, block.stride, rows.value, lanes);
      RowsOut<T> y(all_y + offset, block.stride, rows.value, lanes);
      DGM_INDEPENDENT
      for (int j = 0; j < lanes; ++j) {
        const C m = mean[j], a_j = a[j], b_j = b[j];  // in registers: y might overlap them for all GCC knows
#pragma GCC unroll 4
        for (int k = 0; k < rows.value; ++k) y.put(k, j, silu(multiply_add(x(k, j) - m, a_j, b_j)));
      }
      y.done();
    });
  });
}

static void moments(const NormForward& args, int64_t unit, int64_t part) {
  DGM_DISPATCH(args.shape.dtype, moments_loop<T>(args, unit, part));
}

static void coefficients(const NormForward& args, int64_t unit) {
  DGM_DISPATCH(args.shape.dtype, coefficients_loop<T>(args, unit));
}

static void apply(const NormForward& args, int64_t unit, int64_t part) {
  DGM_DISPATCH(args.shape.dtype, apply_loop<T>(args, unit, part));
}

extern const NormForwardLoops norm_forward_loops;
const NormForwardLoops norm_forward_loops = {moments, coefficients, apply};

}  // namespace DGM_LEVEL
}  // namespace dgm
