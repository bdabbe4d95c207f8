// Sums in a fixed order, whatever the instruction set and the number of threads.
#pragma once
#include "../math/lanes.h"

namespace dgm {
namespace DGM_LEVEL {

constexpr int kLanes = 16;

// A GNU vector of n numbers: GCC lowers it to what the instruction set has.
template <class C, int n>
struct Vector {
  typedef C type __attribute__((vector_size(n * sizeof(C))));
};

// The sum of all lanes, by halves.
template <class C, int n>
static DGM_HD C sum_of_lanes(const typename Vector<C, n>::type& x) {
  if constexpr (n == 2) {
    return x[0] + x[1];
  } else {
    typename Vector<C, n / 2>::type low, high;
    __builtin_memcpy(&low, &x, sizeof(low));
    __builtin_memcpy(&high, (const char*)&x + sizeof(low), sizeof(high));
    return sum_of_lanes<C, n / 2>(low + high);
  }
}

// Sum of n numbers over kLanes lanes, four sums a lane in flight. Reads, and ignores, up to kLanes - 1 numbers past the
// end. Rows of a few numbers, as of toy data, go one by one: 5 ns instead of 20.
template <class C>
static DGM_HD double sum_of(const C* x, int n) {
  using Lanes = typename Vector<C, kLanes>::type;
  if (n < 8) {
    C sum = 0;
    for (int i = 0; i < n; ++i) sum += x[i];
    return (double)sum;
  }
  static const Lanes index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Lanes sums[4] = {}, next;
  int i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int k = 0; k < 4; ++k) {
      __builtin_memcpy(&next, x + i + k * kLanes, sizeof(next));
      sums[k] += next;
    }
  for (; i < n; i += kLanes) {
    __builtin_memcpy(&next, x + i, sizeof(next));
    sums[0] += index < (C)(n - i) ? next : Lanes{};
  }
  return (double)sum_of_lanes<C, kLanes>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace DGM_LEVEL
}  // namespace dgm
