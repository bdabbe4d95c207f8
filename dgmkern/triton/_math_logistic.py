"""The logistic function, its integral and SiLU, stable for every x: the formulas of csrc/math/softplus.h and sigmoid.h.

`x` is fp32 or fp64. Where a NaN comes in, a NaN comes out.
"""

import triton
import triton.language as tl

from ._math import constants, exp_of, exp_of_negative, horner, multiply_add

_LOG1P = constants(  # ln(1 + y) = y + y^2 S(y) on [0, 1]
    *("-0x1.af4bdep-9", "0x1.491890p-6", "-0x1.d6b0f4p-5", "0x1.b4ae20p-4", "-0x1.3a4360p-3"),
    *("0x1.934b54p-3", "-0x1.ff23e6p-3", "0x1.554dd0p-2", "-0x1.ffffd2p-2"),
)


@triton.jit
def log1p_of_unit(y):
    """ln(1 + y) for y in [0, 1]."""
    if y.dtype == tl.float64:
        x = 1.0 + y
        return tl.log(x) + (y - (x - 1.0)) / x  # what rounding took from 1 + y
    else:
        return multiply_add(y * y, horner(y, _LOG1P, 9), y)


@triton.jit
def exp_minus_abs(x):
    """e^-|x|."""
    return exp_of_negative(-tl.abs(x))


@triton.jit
def softplus(x):
    """ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|), with full relative accuracy on both sides."""
    return tl.where(x > 0.0, x, 0.0) + log1p_of_unit(exp_minus_abs(x))


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x), with full relative accuracy as it goes to 0."""
    y = exp_minus_abs(x)
    return tl.where(x < 0.0, y, 1.0) / (1.0 + y)


@triton.jit
def silu(x):
    """x / (1 + e^-x)."""
    return x / (1.0 + exp_of(-x))


@triton.jit
def silu_gradient(x):
    """Its derivative, s (1 + x (1 - s)) with s = sigmoid(x)."""
    s = 1.0 / (1.0 + exp_of(-x))
    return s * multiply_add(x, 1.0 - s, 1.0)
