#include "../kernels/normalization.h"

#include <limits>

#include "queue.h"
#if defined(DGM_CUDA) || defined(DGM_EMULATED)
#include "../cuda/normalization_run.h"
#else
#include "../cpu/normalization_run.h"
#endif

namespace dgm {
namespace {

// x [N, C, ...] in `groups` groups, as the loops see it once it is dense in `layout`.
NormShape shape_of(const Tensor& x, int64_t groups, MemoryFormat layout) {
  require(x.dim() >= 2, "x: expected a tensor [N, C, ...]");
  require(groups >= 1 && x.size(1) >= 1 && x.size(1) % groups == 0, "groups: expected a divisor of the channels of x");
  NormShape s = {dtype_of(x.scalar_type()), layout != MemoryFormat::Contiguous, x.size(0), x.size(1), 1, groups};
  for (int64_t d = 2; d < x.dim(); ++d) s.pixels *= x.size(d);
  if (s.pixels == 1) s.channels_last = true;  // the same order; lanes are channels then
  return s;
}

// An argument [C] or [N, C], read with its strides.
NormParameter parameter(const std::optional<Tensor>& given, const Tensor& x, const NormShape& s, bool per_sample,
                        const char* name) {
  if (!given.has_value()) return {};
  const bool fits = per_sample ? given->dim() == 2 && given->size(0) == s.samples && given->size(1) == s.channels
                               : given->dim() == 1 && given->size(0) == s.channels;
  if (!fits || !is_beside(*given, x))
    throw std::invalid_argument(std::string(name) + ": expected a " DGM_DEVICE " tensor " +
                                (per_sample ? "[N, C]" : "[C]"));
  const Dtype dtype = dtype_of(given->scalar_type());
  if (dtype == Dtype::f64 && s.dtype != Dtype::f64)
    throw std::invalid_argument(std::string(name) + ": expected a dtype no wider than the arithmetic, float32");
  return {given->const_data_ptr(), dtype, per_sample ? given->stride(0) : 0, given->stride(per_sample ? 1 : 0)};
}

template <class Args>
void set_parameters(Args& args, const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& scale, const std::optional<Tensor>& shift) {
  args.weight = parameter(weight, x, args.shape, false, "weight");
  args.bias = parameter(bias, x, args.shape, false, "bias");
  args.scale = parameter(scale, x, args.shape, true, "scale");
  args.shift = parameter(shift, x, args.shape, true, "shift");
}

Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType type) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0; stride *= sizes[d] > 1 ? sizes[d] : 1) strides[d] = stride;
  return empty_strided(like, sizes, strides, type);
}

std::tuple<Tensor, Tensor, Tensor> group_norm_silu(const Tensor& x_, int64_t groups, std::optional<Tensor> weight,
                                                   std::optional<Tensor> bias, std::optional<Tensor> scale,
                                                   std::optional<Tensor> shift, double eps) {
  const Queue queue(x_);
  const MemoryFormat layout = layout_of(x_);
  NormForward args;
  args.shape = shape_of(x_, groups, layout);
  const NormShape& s = args.shape;
  set_parameters(args, x_, weight, bias, scale, shift);
  const Tensor x = dense(x_, layout);
  const ScalarType compute = compute_type(x.scalar_type());
  Tensor y = empty_dense(x, layout, x.scalar_type());
  Tensor mean = empty(x, {s.samples, s.groups}, compute), rstd = empty(x, {s.samples, s.groups}, compute);
  if (x.numel() == 0) {  // the mean of nothing
    torch::stable::fill_(mean, std::numeric_limits<double>::quiet_NaN());
    torch::stable::fill_(rstd, std::numeric_limits<double>::quiet_NaN());
    return {y, mean, rstd};
  }
  args.x = x.const_data_ptr();
  args.eps = eps;
  args.y = y.mutable_data_ptr();
  args.mean = mean.mutable_data_ptr();
  args.rstd = rstd.mutable_data_ptr();
  run_forward(args, queue, x);
  return {y, mean, rstd};
}

// The gradient of an argument, of its dtype; without elements where the argument is not given.
Tensor gradient_of(const std::optional<Tensor>& argument, const Tensor& x, std::vector<int64_t> sizes,
                   NormGradientOf& out) {
  if (!argument.has_value()) return empty(x, {0}, x.scalar_type());
  Tensor gradient = empty(x, sizes, argument->scalar_type());
  out = {gradient.mutable_data_ptr(), dtype_of(argument->scalar_type())};
  return gradient;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> group_norm_silu_backward(
    const Tensor& grad_, const Tensor& x_, const Tensor& mean_, const Tensor& rstd_, std::optional<Tensor> weight,
    std::optional<Tensor> bias, std::optional<Tensor> scale, std::optional<Tensor> shift, int64_t groups, double) {
  const Queue queue(x_);
  const MemoryFormat layout = layout_of(x_);
  NormBackward args;
  args.shape = shape_of(x_, groups, layout);
  const NormShape& s = args.shape;
  require_alike(grad_, x_, "grad");
  set_parameters(args, x_, weight, bias, scale, shift);
  const ScalarType type = x_.scalar_type(), compute = compute_type(type);
  for (const Tensor* moment : {&mean_, &rstd_})
    require(moment->dim() == 2 && moment->size(0) == s.samples && moment->size(1) == groups && is_beside(*moment, x_) &&
                moment->scalar_type() == compute,
            "mean, rstd: expected " DGM_DEVICE " tensors [N, groups] in float32 (float64 for float64)");
  const Tensor grad = dense(grad_, layout), x = dense(x_, layout);
  const Tensor mean = dense(mean_, MemoryFormat::Contiguous), rstd = dense(rstd_, MemoryFormat::Contiguous);
  Tensor dx = empty_dense(x, layout, type);
  Tensor dweight = gradient_of(weight, x, {s.channels}, args.dweight);
  Tensor dbias = gradient_of(bias, x, {s.channels}, args.dbias);
  Tensor dscale = gradient_of(scale, x, {s.samples, s.channels}, args.dscale);
  Tensor dshift = gradient_of(shift, x, {s.samples, s.channels}, args.dshift);
  if (x.numel() == 0) {
    for (Tensor* gradient : {&dweight, &dbias, &dscale, &dshift}) torch::stable::zero_(*gradient);
    return {dx, dweight, dbias, dscale, dshift};
  }
  args.grad = grad.const_data_ptr();
  args.x = x.const_data_ptr();
  args.mean = mean.const_data_ptr();
  args.rstd = rstd.const_data_ptr();
  args.dx = dx.mutable_data_ptr();
  run_backward(args, queue, x);
  return {dx, dweight, dbias, dscale, dshift};
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, DGM_KEY, m) {
  m.impl("group_norm_silu", TORCH_BOX(&dgm::group_norm_silu));
  m.impl("group_norm_silu_backward", TORCH_BOX(&dgm::group_norm_silu_backward));
}
