// Element types of tensors as the loops see them.
#pragma once
#include <stdint.h>

namespace dgm {

enum class Dtype { f64, f32, bf16, f16 };

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// what arithmetic on a T is done in
template <class T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};
template <class T>
using compute_t = typename Compute<T>::type;

}  // namespace dgm

// Run `body` with T the element type of `dtype`.
#define DGM_DISPATCH(dtype, ...) \
  switch (dtype) {               \
    case ::dgm::Dtype::f64: {    \
      using T = double;          \
      __VA_ARGS__;               \
      break;                     \
    }                            \
    case ::dgm::Dtype::f32: {    \
      using T = float;           \
      __VA_ARGS__;               \
      break;                     \
    }                            \
    case ::dgm::Dtype::bf16: {   \
      using T = ::dgm::bf16;     \
      __VA_ARGS__;               \
      break;                     \
    }                            \
    case ::dgm::Dtype::f16: {    \
      using T = ::dgm::f16;      \
      __VA_ARGS__;               \
      break;                     \
    }                            \
  }
