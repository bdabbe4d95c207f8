"""Noise in a tile: number i is a function of (seed, i), the same bits as on the CPU (csrc/math/philox.h, normal.h)."""

import triton
import triton.language as tl

from ._math import constants
from ._tile import INTERPRETED, divided, load, quotient


@triton.jit
def _high_low(a, M: tl.constexpr):
    product = a.to(tl.uint64) * M  # one wide multiplication
    return (product >> 32).to(tl.uint32), product.to(tl.uint32)


@triton.jit
def philox(counter, seed):
    """Four words uint32 of Philox4x32-10 (Salmon et al. 2011) of counter (low word, high word, 0, 0), int64, under the
    key `seed`, int64."""
    k0 = seed.to(tl.uint32)
    k1 = (seed >> 32).to(tl.uint32)
    # the first round with its zeros worked out by hand
    high, c3 = _high_low(counter.to(tl.uint32), 0xD2511F53)
    c0 = (counter >> 32).to(tl.uint32) ^ k0
    c1 = tl.zeros_like(c0)
    c2 = high ^ k1
    for _ in tl.static_range(9):
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
        high0, low0 = _high_low(c0, 0xD2511F53)
        high1, low1 = _high_low(c2, 0xCD9E8D57)
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
    return c0, c1, c2, c3


@triton.jit
def _fused(a, b, c):
    """a b + c in fp32 with one rounding; in the interpreter through fp64, since that of Triton 3.6 rounds twice."""
    if INTERPRETED:
        result = (a.to(tl.float64) * b + c).to(tl.float32)
    else:
        result = tl.fma(a, tl.zeros_like(a) + b, tl.zeros_like(a) + c)
    return result


@triton.jit
def _horner(x, C: tl.constexpr, N: tl.constexpr):
    p = tl.full(x.shape, C[0], tl.float32)
    for k in tl.static_range(1, N):
        p = _fused(p, x, C[k])
    return p


_LOG = constants(
    *("-0x1.6a0ec4p-16", "-0x1.a3985ep-14", "-0x1.354f76p-12", "-0x1.722736p-13"),
    *("-0x1.0df6b6p-10", "0x1.f313e8p-9", "-0x1.55a384p-6", "0x1.fffec0p-4"),
)
_SIN = constants("-0x1.aa72f6p-9", "0x1.cd8e38p-5", "-0x1.d3ba3ep-2", "0x1.c5831ap-4")
_COS = constants("-0x1.d8dc7ep-7", "0x1.6f402cp-3", "-0x1.bea566p-1", "-0x1.2bec34p-2")
_LN_2_4 = constants("0x1.62e430p-22")  # 4 ln 2 / 2^23


@triton.jit
def box_muller(x, a):
    """Two normals of two words: csrc/math/normal.h, which says what and why."""
    v = x.to(tl.int32, bitcast=True).to(tl.float32) + 0.5
    exponent = tl.minimum(v.to(tl.uint32, bitcast=True) - 1, 0x4F000000)
    scale = (exponent ^ 0xFFFFFFFF) & 0x7F800000
    octave = (scale - 0x30800000).to(tl.int32, bitcast=True).to(tl.float32)
    f = _fused(v, scale.to(tl.float32, bitcast=True), -tl.minimum(octave, 4.0))
    r = tl.sqrt_rn(_fused(f * f, _horner(f, _LOG, 8), _fused(octave, _LN_2_4[0], -f)))
    y = (a << 2).to(tl.int32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10  # 2^-32
    w = y * y
    ry = r * y
    signed_r = (r.to(tl.uint32, bitcast=True) ^ (a & 0x80000000)).to(tl.float32, bitcast=True)
    sine = _fused(ry, _horner(w, _SIN, 4), ry)
    cosine = _fused(signed_r, _horner(w, _COS, 4), signed_r)
    swap = (a & 0x40000000) != 0
    return tl.where(swap, sine, cosine), tl.where(swap, cosine, sine)


@triton.jit
def normals(counter, seed):
    """The four normals of a counter, fp32."""
    w0, w1, w2, w3 = philox(counter, seed)
    z0, z1 = box_muller(w0, w1)
    z2, z3 = box_muller(w2, w3)
    return z0, z1, z2, z3


@triton.jit
def _lane(x0, x1, x2, x3, number):
    lane = (number & 3).to(tl.int32)
    return tl.where(lane < 2, tl.where(lane == 0, x0, x1), tl.where(lane == 2, x2, x3))


@triton.jit
def normal_of(number, seed):
    """The normals of these numbers, int64, one counter for each."""
    z0, z1, z2, z3 = normals(number >> 2, seed)
    return _lane(z0, z1, z2, z3, number)


@triton.jit
def uniform_of(number, seed):
    """The uniforms of these numbers, int64: ((w >> 9) + 1/2) / 2^23, exact in fp32."""
    w0, w1, w2, w3 = philox(number >> 2, seed)
    return ((_lane(w0, w1, w2, w3, number) >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def by_fours(counter, seed, ROWS: tl.constexpr, COLS: tl.constexpr):
    """The normals of counters [ROWS, COLS / 4] in their order, fp32 [ROWS, COLS]."""
    z0, z1, z2, z3 = normals(counter, seed)
    return tl.reshape(tl.join(tl.join(z0, z2), tl.join(z1, z3)), [ROWS, COLS])


@triton.jit
def eps_of(
    source,
    offset,
    rows,
    first,
    at,
    mask,
    inner,
    channels,
    NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """The noise of a tile (`rows`, `first`: `tile_of`; `at`, `mask`: `elements_of`) in fp32, or in the compute dtype
    where it is given. See `Operands.noise`."""
    if NOISE == "given":
        eps = load(source + at, mask)
    elif NOISE == "fours" or NOISE == "fours_last":
        groups = tl.arange(0, COLS // 4)[None, :]
        group = first // 4 + groups
        if NOISE == "fours_last":  # the counter of four pixels: they are pixels / 4 to a channel
            pixel, channel = divided(first // 4, groups, channels)
            group = channel * (quotient(inner, channels) // 4) + pixel
        eps = by_fours(((rows * inner + offset) >> 2) + group, tl.load(source), ROWS, COLS)
    else:
        columns = tl.arange(0, COLS)[None, :]
        number = first + columns
        if NOISE == "each_last":
            pixel, channel = divided(first, columns, channels)
            number = channel * quotient(inner, channels) + pixel
        eps = normal_of(rows * inner + offset + number, tl.load(source))
    return eps
