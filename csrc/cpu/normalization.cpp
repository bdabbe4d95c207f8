#include <cstring>
#include <memory>

#include "normalization_loops.h"
#include "tensors.h"

namespace dgm {
namespace {

// x [N, C, ...] in `groups` groups, as the loops see it once it is dense in `layout`.
NormShape shape_of(const Tensor& x, int64_t groups, MemoryFormat layout) {
  require(x.dim() >= 2 && x.is_cpu(), "x: expected a CPU tensor [N, C, ...]");
  require(groups >= 1 && x.size(1) >= 1 && x.size(1) % groups == 0, "groups: expected a divisor of the channels of x");
  NormShape s = {dtype_of(x.scalar_type()), layout != MemoryFormat::Contiguous, x.size(0), x.size(1), 1, groups};
  for (int64_t d = 2; d < x.dim(); ++d) s.pixels *= x.size(d);
  if (s.pixels == 1) s.channels_last = true;  // the same order; lanes are channels then
  return s;
}

// An argument [C] or [N, C], read with its strides.
NormParameter parameter(const std::optional<Tensor>& given, const NormShape& s, bool per_sample, const char* name) {
  if (!given.has_value()) return {};
  const bool fits = per_sample ? given->dim() == 2 && given->size(0) == s.samples && given->size(1) == s.channels
                               : given->dim() == 1 && given->size(0) == s.channels;
  if (!fits || !given->is_cpu())
    throw std::invalid_argument(std::string(name) + ": expected a CPU tensor " + (per_sample ? "[N, C]" : "[C]"));
  const Dtype dtype = dtype_of(given->scalar_type());
  if (dtype == Dtype::f64 && s.dtype != Dtype::f64)
    throw std::invalid_argument(std::string(name) + ": expected a dtype no wider than the arithmetic, float32");
  return {given->const_data_ptr(), dtype, per_sample ? given->stride(0) : 0, given->stride(per_sample ? 1 : 0)};
}

template <class Args>
void set_parameters(Args& args, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& scale, const std::optional<Tensor>& shift) {
  args.weight = parameter(weight, args.shape, false, "weight");
  args.bias = parameter(bias, args.shape, false, "bias");
  args.scale = parameter(scale, args.shape, true, "scale");
  args.shift = parameter(shift, args.shape, true, "shift");
}

Tensor empty(const std::vector<int64_t>& sizes, ScalarType type) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0; stride *= sizes[d] > 1 ? sizes[d] : 1) strides[d] = stride;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided((int64_t)sizes.size(), sizes.data(), strides.data(),
                                                  torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

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

// All bits 0: zeros; all bits 1: NaNs.
void fill_bits(Tensor& x, bool bit) {
  if (x.numel() > 0) std::memset(x.mutable_data_ptr(), bit ? 0xff : 0, x.numel() * x.element_size());
}

std::tuple<Tensor, Tensor, Tensor> group_norm_silu(const Tensor& x_, int64_t groups, std::optional<Tensor> weight,
                                                   std::optional<Tensor> bias, std::optional<Tensor> scale,
                                                   std::optional<Tensor> shift, double eps) {
  const MemoryFormat layout = layout_of(x_);
  NormForward args;
  args.shape = shape_of(x_, groups, layout);
  const NormShape& s = args.shape;
  set_parameters(args, weight, bias, scale, shift);
  const Tensor x = dense(x_, layout);
  const ScalarType compute = compute_type(x.scalar_type());
  Tensor y = empty_dense(x, layout, x.scalar_type());
  Tensor mean = empty({s.samples, s.groups}, compute), rstd = empty({s.samples, s.groups}, compute);
  if (x.numel() == 0) {  // the mean of nothing
    fill_bits(mean, true);
    fill_bits(rstd, true);
    return {y, mean, rstd};
  }
  args.x = x.const_data_ptr();
  args.eps = eps;
  args.y = y.mutable_data_ptr();
  args.mean = mean.mutable_data_ptr();
  args.rstd = rstd.mutable_data_ptr();
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
  return {y, mean, rstd};
}

// The gradient of an argument, of its dtype; without elements where the argument is not given.
Tensor gradient_of(const std::optional<Tensor>& argument, std::vector<int64_t> sizes, ScalarType otherwise,
                   NormGradientOf& out) {
  if (!argument.has_value()) return empty({0}, otherwise);
  Tensor gradient = empty(sizes, argument->scalar_type());
  out = {gradient.mutable_data_ptr(), dtype_of(argument->scalar_type())};
  return gradient;
}

// dh is kept between the two passes, for units of up to 1 MB of it; it lies in the memory of dx where it fits there.
constexpr int64_t kKept = 1 << 18;

void run_backward(const NormBackward& args) {
  const NormShape& s = args.shape;
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

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> group_norm_silu_backward(
    const Tensor& grad_, const Tensor& x_, const Tensor& mean_, const Tensor& rstd_, std::optional<Tensor> weight,
    std::optional<Tensor> bias, std::optional<Tensor> scale, std::optional<Tensor> shift, int64_t groups, double) {
  const MemoryFormat layout = layout_of(x_);
  NormBackward args;
  args.shape = shape_of(x_, groups, layout);
  const NormShape& s = args.shape;
  require_alike(grad_, x_, "grad");
  set_parameters(args, weight, bias, scale, shift);
  const ScalarType type = x_.scalar_type(), compute = compute_type(type);
  for (const Tensor* moment : {&mean_, &rstd_})
    require(moment->dim() == 2 && moment->size(0) == s.samples && moment->size(1) == groups && moment->is_cpu() &&
                moment->scalar_type() == compute,
            "mean, rstd: expected CPU tensors [N, groups] in float32 (float64 for float64)");
  const Tensor grad = dense(grad_, layout), x = dense(x_, layout);
  const Tensor mean = dense(mean_, MemoryFormat::Contiguous), rstd = dense(rstd_, MemoryFormat::Contiguous);
  Tensor dx = empty_dense(x, layout, type);
  Tensor dweight = gradient_of(weight, {s.channels}, type, args.dweight);
  Tensor dbias = gradient_of(bias, {s.channels}, type, args.dbias);
  Tensor dscale = gradient_of(scale, {s.samples, s.channels}, type, args.dscale);
  Tensor dshift = gradient_of(shift, {s.samples, s.channels}, type, args.dshift);
  if (x.numel() == 0) {
    for (Tensor* gradient : {&dweight, &dbias, &dscale, &dshift}) fill_bits(*gradient, false);
    return {dx, dweight, dbias, dscale, dshift};
  }
  args.grad = grad.const_data_ptr();
  args.x = x.const_data_ptr();
  args.mean = mean.const_data_ptr();
  args.rstd = rstd.const_data_ptr();
  args.dx = dx.mutable_data_ptr();
  const auto sums = scratch<NormSums>(s.samples * s.channels * s.pixel_parts());
  const auto totals = scratch<NormSums>(s.samples * s.channels);
  Workspace coefficients(s, 6 * s.samples * s.channels);
  args.sums = sums.get();
  args.totals = totals.get();
  args.coefficients = coefficients.at(s, 0);
  run_backward(args);
  return {dx, dweight, dbias, dscale, dshift};
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, CPU, m) {
  m.impl("group_norm_silu", TORCH_BOX(&dgm::group_norm_silu));
  m.impl("group_norm_silu_backward", TORCH_BOX(&dgm::group_norm_silu_backward));
}
