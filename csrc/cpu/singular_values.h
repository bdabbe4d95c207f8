// The sum of the singular values of a bidiagonal matrix by the differential qd algorithm with shifts (K. Fernando and
// B. Parlett, "Accurate singular values and differential qd algorithms", 1994). A number costs one division a pass;
// Golub and Kahan's iteration, with two square roots and four divisions, took 2 to 3 times as long.
#pragma once
#include <stdint.h>

namespace dgm {
namespace DGM_LEVEL {

constexpr double kEpsilon = 0x1p-52;
constexpr double kNothing = 0x1p-480;  // of the largest square; its own square does not vanish

// B^T B - shift = L U in rows low to high: q is the diagonal of U, e what L has below its own of ones.
struct Segment {
  double *q, *e;
  int64_t low, high;
  double shift, lost = 0;  // to a rounding of their sum

  void add(double s) {
    const double sum = shift + s, kept = sum - shift;
    lost += (shift - (sum - kept)) + (s - kept);
    shift = sum;
  }
};

// The least eigenvalue of the last two rows and columns of U L, less twice what the row before takes from it to second
// order: then a shift of so much rarely is too much.
static inline double guess(const Segment& x) {
  const double* const q = x.q + x.high;
  const double* const e = x.e + x.high;
  const double mean = (q[-1] + e[-1] + q[0]) / 2, half = (q[-1] + e[-1] - q[0]) / 2, square = q[0] * e[-1];
  const double least = q[-1] * q[0] / (mean + __builtin_sqrt(half * half + square));
  if (x.high - x.low < 2) return least;
  const double across = q[-1] + e[-1] - least, gap = q[-2] + e[-2] - least;
  if (!(gap > 0)) return least / 2;
  const double taken = 2 * q[-1] * e[-2] * (square / (across * across + square)) / gap;
  return taken < least ? least - taken : 0;
}

// q and e [high + 1] for the shift s more. Returns whether that is at most the least eigenvalue; else, last is the
// final q if that alone is negative, and infinite if another one is.
static inline bool factor(const Segment& x, double s, double* q, double* e, double& last) {
  double d = x.q[x.low] - s;
  for (int64_t k = x.low; k < x.high; ++k) {
    if (!(d >= 0)) {
      last = -__builtin_inf();
      return false;
    }
    q[k] = d + x.e[k];
    const double ratio = x.q[k + 1] / q[k];
    e[k] = x.e[k] * ratio;
    d = d * ratio - s;
  }
  if (d < 0 && -d <= kEpsilon * (x.shift + s)) d = 0;
  q[x.high] = last = d;
  return d >= 0;
}

static inline void reverse(double* x, int64_t low, int64_t high) {
  for (; low < high; ++low, --high) {
    const double kept = x[low];
    x[low] = x[high];
    x[high] = kept;
  }
}

// One pass: the segment is taken to L U for a shift that is near its least eigenvalue.
static void pass(Segment& x, double* q, double* e) {
  if (x.q[x.low] < x.q[x.high] / 2) {  // least ones last, where they are found first
    reverse(x.q, x.low, x.high);
    reverse(x.e, x.low, x.high - 1);
  }
  double s = guess(x), last;
  for (int tries = 1; !factor(x, s, q, e, last); ++tries)  // a shift of 0 always is possible
    s = tries > 2 ? 0 : s + last > 0 && tries == 1 ? (s + last) * (1 - 2 * kEpsilon) : s / 4;
  const int64_t bytes = (x.high - x.low + 1) * sizeof(double);
  __builtin_memcpy(x.q + x.low, q + x.low, bytes);
  __builtin_memcpy(x.e + x.low, e + x.low, bytes - sizeof(double));
  x.add(s);
}

// Of a bidiagonal whose largest number is about 1 and which is overwritten; scratch is [2, n]. False if it does not
// converge. To leave out e changes the sum by no more than e / 2 over the root of the shift.
static bool sum_of_singular_values(double* diagonal, double* above, int64_t n, double* scratch, double& sum) {
  sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    diagonal[i] *= diagonal[i];
    above[i] *= above[i];
  }
  int64_t passes = 0;
  if (n > 0) above[n - 1] = 0;
  for (int64_t high = n - 1; high >= 0;) {
    Segment x = {diagonal, above, 0, high, -above[high]};  // its shift was kept there
    for (int64_t k = high - 1; k >= 0 && x.low == 0; --k)
      if (above[k] <= 0) x.low = k + 1;
    while (x.low <= x.high) {
      const double total = x.shift + x.lost;
      if (x.low == x.high || x.e[x.high - 1] <= kEpsilon * (total + x.q[x.high]) || x.e[x.high - 1] <= kNothing) {
        sum += __builtin_sqrt(total + x.q[x.high--]);
        continue;
      }
      for (int64_t k = x.high - 2; k >= x.low; --k)
        if (x.e[k] <= kEpsilon * total || x.e[k] <= kNothing) {
          x.e[k] = -total;
          x.low = k + 1;
        }
      if (++passes > 30 * n) return false;
      pass(x, scratch, scratch + n);
    }
    high = x.low - 1;
  }
  return true;
}

}  // namespace DGM_LEVEL
}  // namespace dgm
