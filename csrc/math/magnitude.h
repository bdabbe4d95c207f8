// Floating-point numbers by their bits: without their sign they order as integers, infinities and NaNs last.
#pragma once
#include "lanes.h"

namespace dgm {

template <class C>
struct Bits;
template <>
struct Bits<float> {
  using type = uint32_t;
  static constexpr type infinity = 0x7f800000u;
};
template <>
struct Bits<double> {
  using type = uint64_t;
  static constexpr type infinity = 0x7ff0000000000000u;
};
template <class C>
using bits_t = typename Bits<C>::type;

template <class C>
DGM_HD bits_t<C> magnitude(C x) {
  return bits_as<bits_t<C>>(x) & ~((bits_t<C>)1 << (8 * sizeof(C) - 1));
}

}  // namespace dgm
