"""Negative log-likelihoods of one element, in nats, and their derivatives: the formulas of csrc/math/likelihood.h and
discretized_gaussian.h, with ln x and the Mills ratio. Arguments are fp32 or fp64."""

import triton
import triton.language as tl

from ._math import constants, exp_minus_1, exp_of, exp_of_negative, horner, multiply_add
from ._math_logistic import exp_minus_abs, log1p_of_unit

_DELTA = tl.constexpr(1 / 255)  # half of a bin of [-1, 1] in 256 levels
# what rounding takes from it, in fp32 and in fp64
_DELTA_LOW32 = tl.constexpr(1 / 255 - float.fromhex("0x1.010102p-8"))
_DELTA_LOW64 = tl.constexpr(float.fromhex("0x1.0101p-64"))
_LOG_2_DELTA = tl.constexpr(-4.8481163645984808368)
_HALF_LOG_2PI = tl.constexpr(0.91893853320467274178)
_LOG_2PI = tl.constexpr(1.8378770664093454836)
_INV_SQRT_2PI = tl.constexpr(0.39894228040143267794)
_LARGEST32 = tl.constexpr(float.fromhex("0x1.fffffep+127"))
_LARGEST64 = tl.constexpr(float.fromhex("0x1.fffffffffffffp+1023"))

_LOG = constants(  # ln(1 + f) = f + f^2 L(f), sqrt(1/2) <= 1 + f < sqrt(2)
    *("-0x1.325ab0p-4", "0x1.06b520p-3", "-0x1.0fa384p-3", "0x1.22b8bep-3", "-0x1.5422b0p-3"),
    *("0x1.99a016p-3", "-0x1.000432p-2", "0x1.555558p-2", "-0x1.fffff8p-2"),
)
_LN_2 = constants("0x1.62e400p-1", "0x1.7f7d1cp-20")
_MILLS32 = constants(  # (a + 3) M(a) in (a - 3) / (a + 3)
    *("0x1.38230ep-14", "0x1.2a4252p-12", "-0x1.06eca6p-11", "-0x1.4a959cp-9", "0x1.46eae2p-9"),
    *("0x1.1db048p-6", "-0x1.ad5570p-6", "-0x1.e53acap-4", "0x1.2733c0p-1", "-0x1.46d638p+0"),
    "0x1.d3d9c8p+0",
)
# (a + 4) M(a) in (a - 4) / (a + 4), by interpolation in 24 Chebyshev nodes: relative error 1.3e-16, 6e-16 with that of
# the arithmetic (Triton has no erfc)
_MILLS64 = constants(
    *("-0x1.9ba8ccaa5dc3cp-32", "-0x1.2264f7a854c95p-28", "-0x1.1fd5ebb557781p-30", "0x1.59a074bc1a46fp-25"),
    *("0x1.77108cc436589p-25", "-0x1.a7e3ecb8c495ap-23", "-0x1.ac62ee494516fp-22", "0x1.64320bc176731p-21"),
    *("0x1.58968b999a5cep-19", "-0x1.a47c1468ab79cp-20", "-0x1.f207dbf8af2f8p-17", "0x1.e0d170642ea36p-20"),
    *("0x1.717fbcecea82ap-14", "-0x1.40e6f8722a3c9p-18", "-0x1.2fb4331d97f51p-11", "0x1.5e7b09955f37fp-12"),
    *("0x1.0be6d66962f06p-8", "-0x1.1dcfea6ade797p-7", "-0x1.35aa3c94e5883p-6", "0x1.360ce26013b17p-3"),
    *("-0x1.dec30ee679300p-2", "0x1.f0d9856bc3c1fp-1", "-0x1.8615d9b49165dp+0", "0x1.e4aa012912ddep+0"),
)
_INVERSE_FACTORIALS = tl.constexpr(  # 1 / (2 k + 1)!
    (1.0, 1 / 6, 1 / 120, 1 / 5040, 1 / 362880, 1 / 39916800, 1 / 6227020800, 1 / 1307674368000, 1 / 355687428096000)
)


@triton.jit
def clamped(x, BOUND: tl.constexpr):
    """To [-BOUND, BOUND]; a NaN stays one."""
    low = tl.where(x < -BOUND, -BOUND, x)
    return tl.where(low > BOUND, BOUND, low)


@triton.jit
def log_of(x):
    """ln x for normal x > 0, within 1 ulp or 6e-8, whichever is more (fp64: the library's); inf and NaN stay."""
    if x.dtype == tl.float64:
        return tl.log(x)
    else:
        bits = x.to(tl.int32, bitcast=True)
        octaves = (bits - 0x3F3504F4) >> 23  # x = m 2^octaves, sqrt(1/2) <= m < sqrt(2)
        n = octaves.to(tl.float32)
        f = (bits - (octaves << 23)).to(tl.float32, bitcast=True) - 1.0
        # n ln 2 in two pieces, the first of them exact
        small = multiply_add(f * f, horner(f, _LOG, 9), n * _LN_2[1])
        ln = multiply_add(n, _LN_2[0], f + small)
        return tl.where(x < 3.4e38, ln, x)


@triton.jit
def mills_ratio(a):
    """M(a) = Q(a) / phi(a) of N(0, 1) for a >= 0: within 5 ulp (fp64: 3 ulp)."""
    if a.dtype == tl.float64:
        r = 1.0 / (a + 4.0)
        return r * horner(multiply_add(r, -8.0, 1.0), _MILLS64, 24)
    else:
        r = 1.0 / (a + 3.0)
        return r * horner(multiply_add(r, -6.0, 1.0), _MILLS32, 11)


@triton.jit
def _narrow_bin(w, h2):
    """S = int_0^1 cosh(w t) e^(-h^2 t^2 / 2) dt = sum He_2k(w / h) h^2k / (2k + 1)!, by the recurrence of He_n h^n."""
    TERMS: tl.constexpr = 8 if w.dtype == tl.float64 else 3
    before = tl.zeros_like(w) + 1.0
    now = w
    total = before
    for k in tl.static_range(1, TERMS + 1):
        even = w * now - (2.0 * k - 1.0) * h2 * before
        now = w * even - 2.0 * k * h2 * now
        before = even
        total += even * _INVERSE_FACTORIALS[k]
    return total


@triton.jit
def _bin_of(x, mean, log_scale):
    """The bin of x seen from the mean: (sign, 1 / s, a, b, u, h, w, phi(b) / phi(a), phi, r, narrow, tail).

    With s = e^log_scale, u = |x - mean| / s, h = delta / s, a = u - h, b = u + h, w = u h and M the Mills ratio,
    p = Q(a) - Q(b) in three forms, none of which cancels or underflows:
      narrow, h < 1/4 and w < 1/2: p = 2 h phi(u) S (`phi` is e^(-h^2 / 2), `r` is S)
      tail, a >= 0:                p = phi(a) r, r = M(a) - e^-2w M(b)
      middle, a < 0:               p = 1 - phi(a) r, r = M(-a) + e^-2w M(b)
    The outermost bins have no outer end: M(b) is left out there.
    """
    IS64: tl.constexpr = x.dtype == tl.float64
    FAR: tl.constexpr = 1e200 if IS64 else 1e25
    LOWEST: tl.constexpr = -600.0 if IS64 else -80.0  # e^80 is finite, and a distance of 1e-15 then overflows a^2
    DELTA_LOW: tl.constexpr = _DELTA_LOW64 if IS64 else _DELTA_LOW32
    outermost = (x > 0.999) | (x < -0.999)
    # with its rounding error: where the scale is far smaller than delta, an end of the bin needs all digits
    diff = x - mean
    part = diff - x
    error = (x - (diff - part)) - (mean + part)
    error = tl.where(error == error, error, 0.0)  # the mean is infinite
    sign = tl.where(tl.where(outermost, x, diff) < 0.0, -1.0, 1.0).to(x.dtype)
    per_scale = exp_of(-tl.where(log_scale < LOWEST, LOWEST, log_scale))
    distance = sign * diff
    h = _DELTA * per_scale
    u = clamped(distance * per_scale, FAR)
    a = clamped(((distance - _DELTA) + (sign * error - DELTA_LOW)) * per_scale, FAR)
    b = u + h
    w = u * h
    narrow = (outermost == 0) & (h < 0.25) & (w < 0.5)
    tail = a >= 0.0
    h2 = h * h
    ratio = tl.where(outermost, 0.0, exp_of_negative(-2.0 * w))
    density = exp_of_negative(-0.5 * tl.where(narrow, h2, a * a))
    phi = tl.where(narrow, density, density * _INV_SQRT_2PI)
    far_end = ratio * mills_ratio(tl.abs(b))
    wide_r = mills_ratio(tl.abs(a)) + tl.where(tail, -far_end, far_end)
    r = tl.where(narrow, _narrow_bin(w, h2), wide_r)
    return sign, per_scale, a, b, u, h, w, ratio, phi, r, narrow, tail


@triton.jit
def discretized_gaussian_nll(x, mean, log_scale):
    """-ln p of a Gaussian discretized to 256 levels of [-1, 1] (Ho et al. 2020, eq. 13)."""
    _, _, a, _, u, _, _, _, phi, r, narrow, tail = _bin_of(x, mean, log_scale)
    q = phi * r
    p = 1.0 - q
    middle = (narrow | tail) == 0
    lost = tl.where(middle, ((1.0 - p) - q) / p, 0.0)  # ln(1 - q) = ln p + lost, p being rounded
    log = log_of(tl.where(middle, p, r)) + lost
    away = tl.where(narrow, u, a)
    rest = tl.where(narrow, (log_scale - _LOG_2_DELTA) + _HALF_LOG_2PI, _HALF_LOG_2PI)
    return tl.where(middle, 0.0, 0.5 * away * away + rest) - log


@triton.jit
def discretized_gaussian_grad(x, mean, log_scale):
    """Its derivatives by mean (the one by x is the negative) and log_scale; finite wherever -ln p is."""
    LARGEST: tl.constexpr = _LARGEST64 if x.dtype == tl.float64 else _LARGEST32
    TERMS: tl.constexpr = 9 if x.dtype == tl.float64 else 4
    sign, per_scale, a, b, u, _, w, ratio, phi, r, narrow, tail = _bin_of(x, mean, log_scale)
    # (phi(a) - phi(b)) / p and (b phi(b) - a phi(a)) / p, in the terms of each form
    w2 = w * w
    power = tl.zeros_like(w) + 1.0
    sinh_w_over_w = power
    cosh_w = power
    for k in tl.static_range(1, TERMS + 1):
        power = power * w2 * (1.0 / ((2 * k - 1) * (2 * k)))
        cosh_w += power
        sinh_w_over_w += power * (1.0 / (2 * k + 1))
    wide = tl.where(ratio > 0.0, -exp_minus_1(-2.0 * w, ratio), 1.0)
    by_mean = tl.where(narrow, u * sinh_w_over_w, wide)
    by_scale = tl.where(narrow, cosh_w - u * u * sinh_w_over_w, b * ratio - a)
    only_tail = tail & (narrow == 0)
    factor = tl.where(only_tail, 1.0, phi) / tl.where(only_tail | narrow, r, 1.0 - phi * r)
    dmean = clamped(-sign * (by_mean * factor * per_scale), LARGEST)
    return dmean, clamped(by_scale * factor, LARGEST)


@triton.jit
def bernoulli_nll(logit, x):
    """softplus(l) - x l = (1 - x) max(l, 0) - x min(l, 0) + ln(1 + e^-|l|), in which nothing cancels."""
    return tl.where(logit > 0.0, 1.0 - x, -x) * logit + log1p_of_unit(exp_minus_abs(logit))


@triton.jit
def bernoulli_grad(logit, x):
    """Its derivative by the logit, sigmoid(l) - x, which keeps its digits as l goes to +inf for x = 1."""
    y = exp_minus_abs(logit)
    less_likely = y / (1.0 + y)
    return tl.where(logit > 0.0, (1.0 - x) - less_likely, less_likely - x)


@triton.jit
def gaussian_nll(x, mean, logvar):
    """(ln 2 pi + logvar + (x - mean)^2 e^-logvar) / 2."""
    diff = x - mean
    return 0.5 * (_LOG_2PI + logvar + diff * diff * exp_of(-logvar))


@triton.jit
def gaussian_grad(x, mean, logvar):
    """Its derivatives by mean (the one by x is the negative) and logvar."""
    diff = x - mean
    scaled = diff * exp_of(-logvar)
    return -scaled, 0.5 * (1.0 - diff * scaled)


@triton.jit
def multinomial_nll(log_prob, count):
    """-count log p, without the coefficient; a count of 0 adds nothing, even where p = 0."""
    return tl.where(count == 0.0, 0.0, -count * log_prob)
