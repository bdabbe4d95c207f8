// What every op needs to get from torch tensors to the loops: layouts, dtypes, noise, checks. LibTorch stable ABI only.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "../cpu/levels.h"
#include "../kernels/dtypes.h"
#include "../kernels/noise_source.h"

namespace dgm {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Raise a Python ValueError. The public wrappers check first; this guards raw calls of the ops.
inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

inline Dtype dtype_of(ScalarType type) {
  switch (type) {
    case ScalarType::Double: return Dtype::f64;
    case ScalarType::Float: return Dtype::f32;
    case ScalarType::BFloat16: return Dtype::bf16;
    case ScalarType::Half: return Dtype::f16;
    default: throw std::invalid_argument("expected dtype float64, float32, bfloat16 or float16");
  }
}

inline ScalarType compute_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline bool is_channels_last(const Tensor& x) {
  const int64_t dim = x.dim();
  if (dim != 4 && dim != 5) return false;
  int64_t expected = 1;
  for (int64_t i = 0; i < dim; ++i) {
    const int64_t d = i == 0 ? 1 : (i == dim - 1 ? 0 : dim - i);  // channels, then pixels from the last dimension on
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return true;
}

// The memory format in which an op works on x and lays out its results (dgmkern/reference/layout.py says the same).
inline MemoryFormat layout_of(const Tensor& x) {
  if (x.is_contiguous() || !is_channels_last(x)) return MemoryFormat::Contiguous;
  return x.dim() == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d;
}

// x itself if it lies that way, else a copy
inline Tensor dense(const Tensor& x, MemoryFormat layout) {
  const bool as_is = layout == MemoryFormat::Contiguous ? x.is_contiguous() : is_channels_last(x);
  return as_is ? x : torch::stable::contiguous(x, layout);
}

// Uninitialized, on the device of `like`.
inline Tensor empty_strided(const Tensor& like, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                            ScalarType type) {
  int32_t device = 0, index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided((int64_t)sizes.size(), sizes.data(), strides.data(),
                                                  torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
                                                  device, index, &handle));
  return Tensor(handle);
}

inline Tensor empty_dense(const Tensor& like, MemoryFormat layout, ScalarType type) {
  const int64_t dim = like.dim();
  std::vector<int64_t> sizes(dim), strides(dim);
  int64_t stride = 1;
  for (int64_t i = 0; i < dim; ++i) {
    int64_t d = dim - 1 - i;
    if (layout != MemoryFormat::Contiguous) d = i == 0 ? 1 : (i == dim - 1 ? 0 : dim - i);
    sizes[d] = like.size(d);
    strides[d] = stride;
    stride *= like.size(d) > 1 ? like.size(d) : 1;
  }
  return empty_strided(like, sizes, strides, type);
}

// [N] for the N samples of `like`.
inline Tensor empty_samples(const Tensor& like, ScalarType type) {
  return empty_strided(like, {like.size(0)}, {1}, type);
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) != b.size(d)) return false;
  return true;
}

#if defined(DGM_CUDA) || defined(DGM_EMULATED)
#define DGM_NO_SYNC  // values are not looked at: kernels make NaN of what is out of range
#endif

#if defined(DGM_CUDA)
#define DGM_DEVICE "CUDA"
#define DGM_KEY CUDA
inline bool is_here(const Tensor& x) { return x.is_cuda(); }
#else
#define DGM_DEVICE "CPU"
#define DGM_KEY CPU
inline bool is_here(const Tensor& x) { return x.is_cpu(); }
#endif

// On the device that this library is for, and on the one of `like`.
inline bool is_beside(const Tensor& x, const Tensor& like) {
  return is_here(x) && x.get_device_index() == like.get_device_index();
}

inline void require_alike(const Tensor& x, const Tensor& like, const char* name) {
  if (!same_shape(x, like) || x.scalar_type() != like.scalar_type() || !is_beside(x, like))
    throw std::invalid_argument(std::string(name) + ": expected a " DGM_DEVICE
                                                    " tensor of the shape, dtype and device of the others");
}

// Elements per sample of [N, ...]; 1 for a tensor without dimensions.
inline int64_t inner_of(const Tensor& x) { return x.dim() == 0 || x.size(0) == 0 ? 1 : x.numel() / x.size(0); }

inline void require_drawable(const Tensor& seed, int64_t offset) {
  require(seed.scalar_type() == ScalarType::Long && seed.numel() == 1, "seed: expected an int64 tensor of one element");
  require(offset >= 0, "offset: expected a number of elements >= 0");
}

// The noise of an op on x, which works in `layout`. `kept` keeps a dense copy of given noise alive.
inline NoiseSource noise_of(const Tensor& x, MemoryFormat layout, const std::optional<Tensor>& noise,
                            const std::optional<Tensor>& seed, int64_t offset, Tensor& kept) {
  NoiseSource source;
  if (noise.has_value()) {
    require_alike(*noise, x, "noise");
    kept = dense(*noise, layout);
    source.given = kept.const_data_ptr();
    return source;
  }
  require(seed.has_value() && is_beside(*seed, x),
          "seed: expected a " DGM_DEVICE " tensor beside the others where no noise is given");
  require_drawable(*seed, offset);
  source.seed = seed->const_data_ptr<int64_t>();
  source.first = (uint64_t)offset;
  if (layout != MemoryFormat::Contiguous) {
    source.channels = x.size(1);
    source.pixels = inner_of(x) / x.size(1);
  }
  return source;
}

// Elements a thread should have at least, so that waking it pays: some 10 us of work.
constexpr int64_t kGrainDrawn = 16384;
constexpr int64_t kGrainRead = 32768;

inline int64_t grain_of(const NoiseSource& noise) { return noise.given == nullptr ? kGrainDrawn : kGrainRead; }

}  // namespace dgm
