"""Functions with known errors, as in csrc/math: polynomials in fp32, the device's own functions in fp64.

`tl.exp` is off by 2 ulp and more in fp32; these agree with the CPU's to the last bit or two. Constants and errors:
csrc/math/derive_coefficients.py. The names take the e^x that the caller has, so that one exponential serves all.
"""

import triton
import triton.language as tl


def constants(*digits: str) -> tl.constexpr:
    """Hexadecimal numbers, as csrc/math writes them."""
    return tl.constexpr(tuple(float.fromhex(x) for x in digits))


@triton.jit
def multiply_add(a, b, c):
    """a b + c, fused on a device; b and c may be numbers."""
    return tl.fma(a, tl.zeros_like(a) + b, tl.zeros_like(a) + c)


@triton.jit
def horner(x, C: tl.constexpr, N: tl.constexpr):
    """The polynomial of N coefficients C in x, highest power first."""
    p = tl.full(x.shape, C[0], x.dtype)
    for k in tl.static_range(1, N):
        p = multiply_add(p, x, C[k])
    return p


_EXP = constants("0x1.9a6ad0p-13", "0x1.6d4efep-10", "0x1.1115c8p-7", "0x1.5554e6p-5", "0x1.555552p-3", "0x1.0p-1")
_LN_2 = constants("0x1.715476p+0", "-0x1.62e400p-1", "-0x1.7f7d1cp-20")  # 1 / ln 2, and minus ln 2 in two parts
_EXP_REST = constants(
    *("0x1.71cd16p-19", "0x1.a901e6p-16", "0x1.a03858p-13", "0x1.6c0240p-10"),
    *("0x1.1110c2p-7", "0x1.555570p-5", "0x1.555556p-3", "0x1.0p-1"),
)
_EXP_REST_64 = constants(
    *("0x1.ae8e8f29409a5p-41", "0x1.996c22be87920p-37", "0x1.612ebc2ebec2ap-33", "0x1.1ee5b1253f682p-29"),
    *("0x1.ae64337c68746p-26", "0x1.27e505e3ddecbp-22", "0x1.71de3a8569ea1p-19", "0x1.a01a019226653p-16"),
    *("0x1.a01a019fdcec1p-13", "0x1.6c16c16c1f56ap-10", "0x1.1111111111323p-7", "0x1.555555555551dp-5"),
    "0x1.5555555555554p-3",
)


@triton.jit
def _exp_of_rest(x):
    """x = n ln 2 + f: e^f and n, an int32."""
    u = multiply_add(x, _LN_2[0], 12582912.0)  # rint(x / ln 2) in the low bits
    n = u - 12582912.0
    f = multiply_add(n, _LN_2[1], x)  # exact: 16 bits of ln 2
    f = multiply_add(n, _LN_2[2], f)
    return 1.0 + multiply_add(f * f, horner(f, _EXP, 6), f), u.to(tl.int32, bitcast=True) - 0x4B400000


@triton.jit
def exp_of(x):
    """e^x within 1 ulp; overflows to inf, goes to 0 through subnormals; NaN stays NaN."""
    if x.dtype == tl.float64:
        result = tl.exp(x)
    else:
        x = tl.where(x < -105.0, -105.0, x)  # in this form a NaN passes
        x = tl.where(x > 89.0, 89.0, x)
        e, k = _exp_of_rest(x)
        # times 2^n in two exact steps: neither factor over- or underflows by itself
        half = k >> 1
        low = ((half + 127) << 23).to(tl.float32, bitcast=True)
        high = ((k - half + 127) << 23).to(tl.float32, bitcast=True)
        result = e * low * high
    return result


@triton.jit
def exp_of_negative(x):
    """e^x for x <= 0, 0 where it would be subnormal."""
    if x.dtype == tl.float64:
        result = tl.exp(x)
    else:
        e, k = _exp_of_rest(tl.where(x < -88.0, -88.0, x))
        result = tl.where(x < -87.33, 0.0, e * ((k + 127) << 23).to(tl.float32, bitcast=True))
    return result


@triton.jit
def exp_minus_1_minus_x(x, exp_x):
    """e^x - 1 - x given e^x: x^2 times a polynomial for |x| < 1, where the difference would cancel."""
    if x.dtype == tl.float64:
        square = x * x
        near = square * (x * horner(x, _EXP_REST_64, 13)) + 0.5 * square
    else:
        near = horner(x, _EXP_REST, 8) * (x * x)
    return tl.where((x > -1.0) & (x < 1.0), near, (exp_x - 1.0) - x)


@triton.jit
def exp_minus_1(x, exp_x):
    """e^x - 1 given e^x, without cancellation near 0."""
    near = x + exp_minus_1_minus_x(x, exp_x)
    return tl.where((x > -1.0) & (x < 1.0), near, exp_x - 1.0)
