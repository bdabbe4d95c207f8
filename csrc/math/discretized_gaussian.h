// -ln p of a Gaussian discretized to 256 levels of [-1, 1] (Ho et al. 2020, eq. 13), in nats, and its derivatives.
#pragma once
#include "logarithm.h"
#include "mills.h"

namespace dgm {

template <class C>
struct BinLimits;
template <>
struct BinLimits<float> {
  static constexpr float log_scale = -80.0f;  // e^80 is finite, and a distance of 1e-15 in such a scale overflows a^2
  static constexpr float delta = (float)(1.0 / 255), delta_low = (float)(1.0 / 255 - (double)delta);
  static constexpr float far = 1e25f, largest = 0x1.fffffep+127f;
  static constexpr int terms = 3;
};
template <>
struct BinLimits<double> {
  static constexpr double delta = 1.0 / 255, delta_low = 0x1.0101p-64, log_scale = -600.0, far = 1e200,
                          largest = 0x1.fffffffffffffp+1023;
  static constexpr int terms = 8;
};

// The bin of x among 256 levels of [-1, 1], half as wide as delta = 1 / 255 on either side, of a Gaussian with this
// mean and scale s: p = Phi((x + delta - mean) / s) - Phi((x - delta - mean) / s); the outermost bins have no outer
// end. By symmetry the bin may lie above the mean: p = Q(a) - Q(b), a = u - h, b = u + h, u = |x - mean| / s, h = delta
// / s. Three forms, none of which cancels or underflows; phi is the density of N(0, 1), M = Q / phi the Mills ratio, w
// = u h, and phi(b) / phi(a) = e^-2w:
//   narrow, h < 1/4 and w < 1/2: p = 2 h phi(u) S, S = int_0^1 cosh(w t) e^(-h^2 t^2 / 2) dt = sum He_2k(u) h^2k / (2k
//   + 1)! tail, a >= 0:                p = phi(a) r, r = M(a) - e^-2w M(b) middle, a < 0:               p = 1 - phi(a)
//   r, r = M(-a) + e^-2w M(b)
template <class C>
struct Bin {
  C sign;       // of x - mean; of x in the outermost bins, where u may be negative
  C per_scale;  // 1 / s
  C a, b, u, h, w;
  C ratio;  // phi(b) / phi(a); 0 in the outermost bins
  C phi;    // phi(a); e^(-h^2 / 2) in the narrow form
  C r;      // S in the narrow form
  bool narrow, tail;
};

// S of the narrow form
template <class C>
DGM_HD C narrow_bin(C w, C h2) {
  C before = 1, now = w, sum = 1, factorial = 1;  // He_n(u) h^n by its recurrence; 1 / (n + 1)!
  for (int k = 1; k <= BinLimits<C>::terms; ++k) {
    const C even = w * now - (C)(2 * k - 1) * h2 * before;
    now = w * even - (C)(2 * k) * h2 * now;
    before = even;
    factorial /= (C)(2 * k * (2 * k + 1));
    sum += even * factorial;
  }
  return sum;
}

template <class C>
DGM_HD Bin<C> bin_of(C x, C mean, C log_scale) {
  using Limits = BinLimits<C>;
  Bin<C> bin;
  const bool outermost = x > (C)0.999 || x < (C)-0.999;
  // x - mean with its rounding error: where the scale is far smaller than delta, an end of the bin needs all digits
  const C diff = x - mean, part = diff - x;
  C error = (x - (diff - part)) - (mean + part);
  error = error == error ? error : (C)0;  // the mean is infinite
  bin.sign = (outermost ? x : diff) < (C)0 ? (C)-1 : (C)1;
  bin.per_scale = exp_of(-(log_scale < Limits::log_scale ? Limits::log_scale : log_scale));
  const C distance = bin.sign * diff;
  bin.h = Limits::delta * bin.per_scale;
  bin.u = clamped(distance * bin.per_scale, Limits::far);
  bin.a = clamped(((distance - Limits::delta) + (bin.sign * error - Limits::delta_low)) * bin.per_scale, Limits::far);
  bin.b = bin.u + bin.h;
  bin.w = bin.u * bin.h;
  bin.narrow = !outermost && bin.h < (C)0.25 && bin.w < (C)0.5;
  bin.tail = bin.a >= (C)0;
  const C h2 = bin.h * bin.h;
  bin.ratio = outermost ? (C)0 : exp_of_negative((C)-2 * bin.w);
  bin.phi =
      exp_of_negative((C)-0.5 * (bin.narrow ? h2 : bin.a * bin.a)) * (bin.narrow ? (C)1 : (C)0.39894228040143267794);
  const C near_end = mills_ratio(bin.a < (C)0 ? -bin.a : bin.a);
  const C far_end = bin.ratio * mills_ratio(bin.b < (C)0 ? -bin.b : bin.b);
  bin.r = bin.narrow ? narrow_bin(bin.w, h2) : near_end + (bin.tail ? -far_end : far_end);
  return bin;
}

// -ln p of a discretized Gaussian (Ho et al. 2020, eq. 13): x in [-1, 1] in steps of 2 / 255.
template <class C>
DGM_HD C discretized_gaussian_nll(C x, C mean, C log_scale) {
  const Bin<C> bin = bin_of(x, mean, log_scale);
  const C half_log_2pi = (C)0.91893853320467274178, log_2_delta = (C)-4.8481163645984808368;
  const C q = bin.phi * bin.r, p = (C)1 - q;
  const bool middle = !(bin.narrow || bin.tail);
  const C lost = middle ? (((C)1 - p) - q) / p : (C)0;  // ln(1 - q) = ln p + lost, p being rounded
  const C log = log_of(middle ? p : bin.r) + lost;
  const C away = bin.narrow ? bin.u : bin.a;
  const C narrow = (log_scale - log_2_delta) + half_log_2pi;
  const C rest = bin.narrow ? narrow : half_log_2pi;
  return (middle ? (C)0 : (C)0.5 * away * away + rest) - log;
}

// Its derivatives by mean (the one by x is the negative) and log_scale; finite wherever -ln p is.
template <class C>
DGM_HD void discretized_gaussian_nll_grad(C x, C mean, C log_scale, C& dmean, C& dlog_scale) {
  const Bin<C> bin = bin_of(x, mean, log_scale);
  // (phi(a) - phi(b)) / p and (b phi(b) - a phi(a)) / p, in the terms of each form
  const C w2 = bin.w * bin.w;
  C sinh_w_over_w = 1, cosh_w = 1, power = 1;
  for (int k = 1; k <= BinLimits<C>::terms + 1; ++k) {
    cosh_w += power *= w2 / (C)((2 * k - 1) * (2 * k));
    sinh_w_over_w += power / (C)(2 * k + 1);
  }
  const C wide = bin.ratio > (C)0 ? -exp_minus_1((C)-2 * bin.w, bin.ratio) : (C)1;
  const C by_mean = bin.narrow ? bin.u * sinh_w_over_w : wide;
  const C by_scale = bin.narrow ? cosh_w - bin.u * bin.u * sinh_w_over_w : bin.b * bin.ratio - bin.a;
  const bool tail = bin.tail && !bin.narrow;
  const C factor = (tail ? (C)1 : bin.phi) / (tail || bin.narrow ? bin.r : (C)1 - bin.phi * bin.r);
  dmean = clamped(-bin.sign * (by_mean * factor * bin.per_scale), BinLimits<C>::largest);
  dlog_scale = clamped(by_scale * factor, BinLimits<C>::largest);
}

}  // namespace dgm
