// A quantile without a sort, of numbers given by their bits: without their sign, floating-point numbers order as their
// bits do, infinities and NaNs last.
#pragma once
#include "../math/magnitude.h"
#include "chunks.h"

namespace dgm {
namespace DGM_LEVEL {

constexpr int kTopBits = 14;  // of a magnitude, for the first cut: the exponent and a few bits more

template <class B>
static int64_t count_up_to(const B* x, int64_t n, B bound) {
  B count = 0;
  for (int64_t i = 0; i < n; ++i) count += x[i] <= bound ? 1 : 0;
  return (int64_t)count;
}

template <class B>
static B smallest_above(const B* x, int64_t n, B bound) {
  B found = ~(B)0;
  for (int64_t i = 0; i < n; ++i) found = x[i] > bound && x[i] < found ? x[i] : found;
  return found;
}

// The number of rank k (from 0) among x, which lies in [low, high]: bisection over the bits.
template <class B>
static B of_rank(const B* x, int64_t n, int64_t k, B low, B high) {
  while (low < high) {
    const B middle = low + (high - low) / 2;
    if (count_up_to(x, n, middle) > k)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

// The quantile q of n >= 1 magnitudes, between neighbours by linear interpolation; NaN if there is one. Overwrites x;
// counters holds 2^kTopBits. Where there are many numbers, a histogram of their top bits leaves few to bisect.
template <class C>
static double quantile_of_magnitudes(bits_t<C>* x, int64_t n, double q, uint32_t* counters) {
  using B = bits_t<C>;
  constexpr int kShift = 8 * (int)sizeof(C) - 1 - kTopBits;
  B largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  if (largest > Bits<C>::infinity) return __builtin_nan("");
  const double position = q * (double)(n - 1);
  int64_t k = (int64_t)position, left = n;
  const double fraction = position - (double)k;
  B low = 0, high = largest, above = ~(B)0;  // above: the smallest number past those that are left
  if (n >= 4096) {
    for (int b = 0; b < 1 << kTopBits; ++b) counters[b] = 0;
    for (int64_t i = 0; i < n; ++i) ++counters[x[i] >> kShift];
    B bin = 0;
    for (; k >= (int64_t)counters[bin]; ++bin) k -= counters[bin];
    low = bin << kShift;
    high = low + (((B)1 << kShift) - 1);
    if (k + 1 == (int64_t)counters[bin]) above = smallest_above(x, n, high);
    left = 0;
    for (int64_t i = 0; i < n; ++i) {
      const B candidate = x[i];
      x[left] = candidate;
      left += candidate >= low && candidate <= high ? 1 : 0;
    }
  }
  const B lower = of_rank(x, left, k, low, high);
  if (fraction == 0) return (double)bits_as<C>(lower);
  B upper = lower;
  if (count_up_to(x, left, lower) <= k + 1) {
    upper = smallest_above(x, left, lower);
    upper = upper < above ? upper : above;
  }
  const double a = (double)bits_as<C>(lower), b = (double)bits_as<C>(upper);
  return a + (a < b ? fraction * (b - a) : 0);
}

}  // namespace DGM_LEVEL
}  // namespace dgm
