// A kernel and what it works on.
//
// A kernel is a struct: what it needs of a sample, and what it does with elements. It says
//   T, kIn, kOut, kSums, kDraws: the tensors' element type; how many are read and written; how many numbers are summed
//     over each sample; whether it takes noise;
//   Sample, of(n): the numbers of sample n, in the compute type;
//   operator()(s, in, out, from, to): elements from <= j < to of one sample, in[k][j] and out[k][j] in the compute
//   type;
//     the noise is in[kIn], the terms of the sums are out[kOut] and following. A kernel that reads something by itself
//     says kIndexed and gets the number of element 0 too.
// The drivers (cpu/pointwise.h, cuda/pointwise.h) read, convert, draw, write and sum.
#pragma once
#include "noise_source.h"
#include "operand.h"
#include "range.h"
#include "unroll.h"

namespace dgm {

template <class C>
using In = const C* const*;
template <class C>
using Out = C* const*;

template <class Kernel>
struct Work {
  Kernel kernel;
  int64_t inner;  // elements of a sample
  Operand in[Kernel::kIn + (Kernel::kIn == 0)], out[Kernel::kOut + (Kernel::kOut == 0)];
  NoiseSource noise = {};
};

// The constants of a kernel, which inherits them.
template <class T_, int in, int out, int sums, bool draws>
struct KernelBase {
  using T = T_;
  static constexpr int kIn = in, kOut = out, kSums = sums;
  static constexpr bool kDraws = draws;
};

// Of a kernel that needs nothing of a sample.
struct NoSample {};

template <class T, int in, int out, int sums, bool draws>
struct UniformKernel : KernelBase<T, in, out, sums, draws> {
  using Sample = NoSample;
  DGM_HD Sample of(int64_t) const { return {}; }
};

template <class Kernel, class = void>
struct Call {
  template <class C>
  static DGM_HD void of(const Kernel& kernel, const typename Kernel::Sample& s, In<C> in, Out<C> out, int from, int to,
                        int64_t) {
    kernel(s, in, out, from, to);
  }
};
template <class Kernel>
struct Call<Kernel, decltype((void)Kernel::kIndexed)> {
  template <class C>
  static DGM_HD void of(const Kernel& kernel, const typename Kernel::Sample& s, In<C> in, Out<C> out, int from, int to,
                        int64_t i) {
    kernel(s, in, out, from, to, i);
  }
};

}  // namespace dgm
