#include "../math/normalization.h"
#include "normalization_blocks.h"

namespace dgm {
namespace DGM_LEVEL {

template <class T>
static void h_coefficients_loop(const NormBackward& args, int64_t unit) {
  using C = compute_t<T>;
  const NormShape& s = args.shape;
  const Channels of(s, unit);
  C* const coefficients = (C*)args.coefficients + of.row;
  const int64_t size = s.group_channels(), stride = s.samples * s.channels;
  for (int64_t g = 0; g < s.unit_groups(); ++g) {
    const C mean = ((const C*)args.mean)[unit * s.unit_groups() + g];
    const double rstd = ((const C*)args.rstd)[unit * s.unit_groups() + g];
    for (int64_t c = of.first + g * size; c < of.first + (g + 1) * size; ++c) {
      double w, b;
      modulated(args, of.sample, c, w, b);
      coefficients[c] = mean;
      coefficients[stride + c] = (C)(rstd * w);
      coefficients[2 * stride + c] = (C)b;
    }
  }
}

// kept: dh lies in `dh`, or in the memory of dx, between the two passes.
template <class T, bool kept>
static void sums_loop(const NormBackward& args, int64_t unit, int64_t part, compute_t<T>* dh_unit) {
  using C = compute_t<T>;
  const NormShape& s = args.shape;
  const int64_t stride = s.samples * s.channels, pixel_parts = s.pixel_parts(), first = unit * s.unit_size();
  const Channels of(s, unit);
  const C* const coefficients = (const C*)args.coefficients + of.row;
  NormSums* const out = args.sums + of.row * pixel_parts + part % pixel_parts;
  C mean[kNormLanes], a[kNormLanes], b[kNormLanes], sum_dh[kNormLanes + kLanes], sum_dh_x[kNormLanes + kLanes];
  for_each_block(s, unit, part, false, [&](const Block& block) {
    to_lanes(block, coefficients, mean);
    to_lanes(block, coefficients + stride, a);
    to_lanes(block, coefficients + 2 * stride, b);
    for (int j = 0; j < used_lanes(block); ++j) sum_dh[j] = sum_dh_x[j] = 0;
    for_each_row(block, [&](auto rows, int64_t offset, int lanes) {
      const RowsIn<T> x((const T*)args.x + offset, block.stride, rows.value, lanes);
      const RowsIn<T> grad((const T*)args.grad + offset, block.stride, rows.value, lanes);
      C* const dh_row = dh_unit + (offset - first);
      DGM_INDEPENDENT
      for (int j = 0; j < lanes; ++j) {
        const C m = mean[j], a_j = a[j], b_j = b[j];  // in registers: dh might overlap them for all GCC knows
        C sum = 0, sum_x = 0;
#pragma GCC unroll 4
        for (int k = 0; k < rows.value; ++k) {
          const C d = x(k, j) - m;
          const C dh = grad(k, j) * silu_gradient(multiply_add(d, a_j, b_j));
          if (kept) dh_row[j + k * block.stride] = dh;
          sum += dh;
          sum_x = multiply_add(dh, d, sum_x);
        }
        sum_dh[j] += sum;
        sum_dh_x[j] += sum_x;
      }
    });
    if (block.period == 0) {
      out[block.channel * pixel_parts] = {sum_of(sum_dh, used_lanes(block)), sum_of(sum_dh_x, used_lanes(block))};
      return;
    }
    for (int j = 0; j < used_lanes(block); ++j) {
      NormSums& sum = out[(block.channel + j % block.period) * pixel_parts];
      if (j < block.period) sum = {0, 0};
      sum.dh += (double)sum_dh[j];
      sum.dh_x += (double)sum_dh_x[j];
    }
  });
}

template <class T>
static void dx_coefficients_loop(const NormBackward& args, int64_t unit) {
  using C = compute_t<T>;
  const NormShape& s = args.shape;
  const Channels of(s, unit);
  const int64_t size = s.group_channels(), stride = s.samples * s.channels, pixel_parts = s.pixel_parts();
  C* const p = (C*)args.coefficients + 3 * stride + of.row;
  for (int64_t g = 0; g < s.unit_groups(); ++g) {
    const double rstd = ((const C*)args.rstd)[unit * s.unit_groups() + g];
    const int64_t begin = of.first + g * size, end = begin + size;
    double dxhat = 0, dxhat_xhat = 0;
    for (int64_t c = begin; c < end; ++c) {
      NormSums total = {0, 0};
      for (int64_t part = 0; part < pixel_parts; ++part) {
        const NormSums& sum = args.sums[(of.row + c) * pixel_parts + part];
        total.dh += sum.dh;
        total.dh_x += sum.dh_x;
      }
      total.dh_x *= rstd;
      args.totals[of.row + c] = total;
      double w, b;
      modulated(args, of.sample, c, w, b);
      p[c] = (C)(rstd * w);
      dxhat += w * total.dh;
      dxhat_xhat += w * total.dh_x;
      const double weight = value_or(args.weight, 0, c, 1.0), bias = value_or(args.bias, 0, c, 0.0);
      put(args.dscale, of.row + c, weight * total.dh_x + bias * total.dh);
      put(args.dshift, of.row + c, total.dh);
    }
    const double n = (double)s.group_size();
    const NormGradient dx = norm_gradient(rstd, dxhat / n, dxhat_xhat / n);
    for (int64_t c = begin; c < end; ++c) {
      p[stride + c] = (C)dx.slope;
      p[2 * stride + c] = (C)dx.offset;
    }
  }
}

template <class T, bool kept>
static void dx_loop(const NormBackward& args, int64_t unit, int64_t part, const compute_t<T>* dh_unit) {
  using C = compute_t<T>;
  const NormShape& s = args.shape;
  const int64_t stride = s.samples * s.channels, first = unit * s.unit_size();
  const C* const coefficients = (const C*)args.coefficients + Channels(s, unit).row;
  C mean[kNormLanes], a[kNormLanes], b[kNormLanes], p[kNormLanes], q[kNormLanes], t[kNormLanes];
  for_each_block(s, unit, part, false, [&](const Block& block) {
    to_lanes(block, coefficients, mean);
    if (!kept) to_lanes(block, coefficients + stride, a);
    if (!kept) to_lanes(block, coefficients + 2 * stride, b);
    to_lanes(block, coefficients + 3 * stride, p);
    to_lanes(block, coefficients + 4 * stride, q);
    to_lanes(block, coefficients + 5 * stride, t);
    for_each_row(block, [&](auto rows, int64_t offset, int lanes) {
      const RowsIn<T> x((const T*)args.x + offset, block.stride, rows.value, lanes);
      const RowsIn<T> grad((const T*)args.grad + offset, block.stride, kept ? 0 : rows.value, lanes);
      RowsOut<T> dx((T*)args.dx + offset, block.stride, rows.value, lanes);
      const C* const dh_row = dh_unit + (offset - first);
      DGM_INDEPENDENT
      for (int j = 0; j < lanes; ++j) {
        const C m = mean[j], p_j = p[j], q_j = q[j], t_j = t[j];
        const C a_j = kept ? 0 : a[j], b_j = kept ? 0 : b[j];
#pragma GCC unroll 4
        for (int k = 0; k < rows.value; ++k) {
          const C d = x(k, j) - m;
          const C dh = kept ? dh_row[j + k * block.stride] : grad(k, j) * silu_gradient(multiply_add(d, a_j, b_j));
          dx.put(k, j, multiply_add(p_j, dh, multiply_add(q_j, d, t_j)));
        }
      }
      dx.done();
    });
  });
}

static void h_coefficients(const NormBackward& args, int64_t unit) {
  DGM_DISPATCH(args.shape.dtype, h_coefficients_loop<T>(args, unit));
}

static void sums(const NormBackward& args, int64_t unit, int64_t part, void* dh) {
  DGM_DISPATCH(args.shape.dtype, using C = compute_t<T>;
               if (dh != nullptr) sums_loop<T, true>(args, unit, part, (C*)dh);
               else sums_loop<T, false>(args, unit, part, nullptr));
}

static void dx_coefficients(const NormBackward& args, int64_t unit) {
  DGM_DISPATCH(args.shape.dtype, dx_coefficients_loop<T>(args, unit));
}

static void dx(const NormBackward& args, int64_t unit, int64_t part, const void* dh) {
  DGM_DISPATCH(args.shape.dtype, using C = compute_t<T>;
               if (dh != nullptr) dx_loop<T, true>(args, unit, part, (const C*)dh);
               else dx_loop<T, false>(args, unit, part, nullptr));
}

static void parameters(const NormBackward& args, int64_t begin, int64_t end) {
  const NormShape& s = args.shape;
  for (int64_t c = begin; c < end; ++c) {
    double dweight = 0, dbias = 0;
    for (int64_t n = 0; n < s.samples; ++n) {
      const NormSums& total = args.totals[n * s.channels + c];
      const double factor = 1.0 + value_or(args.scale, n, c, 0.0);
      dweight += factor * total.dh_x;
      dbias += factor * total.dh;
    }
    put(args.dweight, c, dweight);
    put(args.dbias, c, dbias);
  }
}

extern const NormBackwardLoops norm_backward_loops;
const NormBackwardLoops norm_backward_loops = {h_coefficients, sums, dx_coefficients, dx, parameters};

}  // namespace DGM_LEVEL
}  // namespace dgm
