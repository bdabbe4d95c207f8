"""Derive the constants of the polynomials in this folder (normal transform, exponentials, logarithms, Mills ratio)
and measure the error they leave.

    python derive_coefficients.py                  # every constant as a C literal, then the error tables
    python derive_coefficients.py --check FILE...  # exit 1 unless each constant stands in the given sources

Normals (Box-Muller on two 32-bit words; + * fma sqrt are rounded correctly, so host and device agree bit for bit).
  Radius: u = (x + 1/2) 2^-32 = m 2^-G, 1/2 <= m <= 1, f = 4 (m - 1): R^2 = -4 ln u = 4 G ln 2 - f + f^2 P(f).
    x is converted as a *signed* integer: words above 2^31 give u - 1, so f keeps its relative accuracy as u -> 1, where
    u itself in fp32 would leave an absolute error of 2^-25 in ln u. R is sqrt(2) times the Box-Muller radius because
    exponent arithmetic yields 4 (m - 1) without another operation; the sine and cosine carry the 1/sqrt(2).
  Angle: y in [-1/2, 1/2) from the low 30 bits, w = y^2, and
    sin(pi/2 y) / sqrt(2) = y (1 + S(w)),  cos(pi/2 y) / sqrt(2) = 1 + C(w),
    so that the last steps fma(R y, S, R y) and fma(R, C, R) round once. Bit 31 negates the cosine and bit 30 swaps the
    two: reflections of the quarter circle, as uniform as its rotations and cheaper.

Exponentials: n = rint(x / ln 2), f = x - n ln 2 with ln 2 = LN2_HI + LN2_LO, e^f = 1 + f + f^2 E(f).
  Where it is only added to 1, as in a sigmoid, ln 2 in one piece (LN2) and a shorter E (SIGMOID_EXP) are enough.
  em1x(x) = e^x - 1 - x = x^2 M(x), M(0) = 1/2, for |x| < 1, where e^x - 1 - x would cancel.

Logarithms: log x = n ln 2 + log1p(f), sqrt(1/2) <= 1 + f < sqrt(2), log1p(f) = f + f^2 L(f);
  log1p(y) = y + y^2 S(y) on [0, 1], for softplus, where y = e^-|x|.

Mills ratio Q(a) / phi(a), a >= 0: (a + 3) times it is R(t), t = (a - 3) / (a + 3) in [-1, 1). The 3 is what leaves the
  smallest error with 11 coefficients. In fp64, for Triton, which has no erfc, 4 in place of 3 and 24 coefficients.

Method: minimise the maximum of the *relative* error of the whole expression. Coefficients are rounded one at a time,
the leading one first, and the others are fitted again after each. Where the interval has 0 at one end the fit is
weighted minimax (Remez exchange). Where 0 lies inside, the powers that remain, x^k with k >= 1, are no Chebyshev system
and the exchange fails: there the fit is weighted least squares on Chebyshev nodes, the nearest-plane rounding of
N. Brisebarre and S. Chevillard, "Efficient polynomial L-infinity approximations" (ARITH 18, 2007), within 0.5 bit of
minimax here unless the resolution of fp32 is the limit.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import mpmath as mp
import numpy as np

mp.mp.prec = 160
Function = Callable[[mp.mpf], mp.mpf]
f32 = np.float32


def chebyshev_nodes(a: mp.mpf, b: mp.mpf, count: int) -> list[mp.mpf]:
    """`count` Chebyshev nodes of the first kind in (a, b), ascending."""
    angles = (mp.pi * (mp.mpf(i) + mp.mpf(1) / 2) / count for i in range(count))
    return [(a + b) / 2 - (b - a) / 2 * mp.cos(angle) for angle in angles]


def polyval(coefficients: Sequence[mp.mpf], x: mp.mpf) -> mp.mpf:
    return mp.polyval(list(reversed(coefficients)), x)


def fit_minimax(x: list[mp.mpf], target: list[mp.mpf], weight: list[mp.mpf], n: int) -> list[mp.mpf]:
    """n coefficients that minimise max |weight (target - polynomial)| over the points x (Remez exchange)."""
    reference = [min(len(x) - 1, int(len(x) * (i + 0.5) / (n + 1))) for i in range(n + 1)]
    for _ in range(30):
        system, rhs = mp.matrix(n + 1, n + 1), mp.matrix(n + 1, 1)
        for row, i in enumerate(reference):
            for k in range(n):
                system[row, k] = x[i] ** k
            system[row, n] = (-1) ** row / weight[i]
            rhs[row] = target[i]
        coefficients = list(mp.lu_solve(system, rhs))[:n]
        error = [v * (t - polyval(coefficients, s)) for s, t, v in zip(x, target, weight, strict=True)]
        extrema: list[int] = []  # the largest error of each run of one sign
        for i, e in enumerate(error):
            if extrema and (e > 0) == (error[extrema[-1]] > 0):
                if abs(e) > abs(error[extrema[-1]]):
                    extrema[-1] = i
            else:
                extrema.append(i)
        while len(extrema) > n + 1:
            extrema.pop(0 if abs(error[extrema[0]]) < abs(error[extrema[-1]]) else -1)
        if len(extrema) <= n or extrema == reference:
            break
        reference = extrema
    return coefficients


def fit_least_squares(x: list[mp.mpf], target: list[mp.mpf], weight: list[mp.mpf], n: int) -> list[mp.mpf]:
    """n coefficients that minimise sum (weight (target - polynomial))^2 over the points x."""
    system = mp.matrix([[v * s**k for k in range(n)] for s, v in zip(x, weight, strict=True)])
    rhs = mp.matrix([v * t for t, v in zip(target, weight, strict=True)])
    return list(mp.lu_solve(system.T * system, system.T * rhs))


def fit(target: Function, weight: Function, n: int, a: float, b: float, dtype: type = f32) -> tuple[list[float], float]:
    """n coefficients of `dtype` on [a, b], lowest power first, and max |weight (target - polynomial)|."""
    a, b = mp.mpf(a), mp.mpf(b)
    one_sided = a * b == 0
    x = chebyshev_nodes(a, b, 600 if one_sided else 4 * n)
    rest, scale = [target(s) for s in x], [weight(s) for s in x]
    rounded: list[mp.mpf] = []
    for k in range(n):
        leading = (fit_minimax if one_sided else fit_least_squares)(x, rest, scale, n - k)[0]
        rounded.append(mp.mpf(float(dtype(float(leading)))))
        rest = [(r - rounded[-1]) / s for r, s in zip(rest, x, strict=True)]
        scale = [v * abs(s) for v, s in zip(scale, x, strict=True)]
    dense = chebyshev_nodes(a, b, 2000)
    return [float(c) for c in rounded], float(max(abs(weight(s) * (target(s) - polyval(rounded, s))) for s in dense))


def interpolate(target: Function, n: int) -> tuple[list[float], float]:
    """n coefficients in fp64 on [-1, 1], through the Chebyshev nodes, and the largest relative error."""
    x = chebyshev_nodes(mp.mpf(-1), mp.mpf(1), n)
    rounded = [float(c) for c in mp.lu_solve(mp.matrix([[s**k for k in range(n)] for s in x]), [target(s) for s in x])]
    dense = chebyshev_nodes(mp.mpf(-1), mp.mpf(1), 500)
    return rounded, float(max(abs(1 - polyval([mp.mpf(c) for c in rounded], s) / target(s)) for s in dense))


def minus_4_log(f: mp.mpf) -> mp.mpf:
    return -4 * mp.log1p(f / 4)


def sine(w: mp.mpf) -> mp.mpf:  # sin(pi/2 y) / (sqrt(2) y) as a function of w = y^2
    return mp.sin(mp.pi / 2 * mp.sqrt(w)) / mp.sqrt(2 * w)


def cosine(w: mp.mpf) -> mp.mpf:
    return mp.cos(mp.pi / 2 * mp.sqrt(w)) / mp.sqrt(2)


def em1x_over_x2(x: mp.mpf) -> mp.mpf:
    return (mp.expm1(x) - x) / x**2


def log1p_over_y2(y: mp.mpf) -> mp.mpf:  # (log1p(y) - y) / y^2
    return (mp.log1p(y) - y) / y**2


def scaled_mills(t: mp.mpf, center: int = 3) -> mp.mpf:  # (a + c) Q(a) / phi(a) as a function of t = (a - c) / (a + c)
    a = center * (1 + t) / (1 - t)
    return (a + center) * mp.sqrt(mp.pi / 2) * mp.erfc(a / mp.sqrt(2)) * mp.exp(a * a / 2)


def derive() -> tuple[dict[str, list[float]], dict[str, float]]:
    """Constants by name (lowest power first) and the approximation error of each polynomial in exact arithmetic."""
    ln2 = mp.log(2)
    hi = round(float(ln2 * 2**16)) / 2**16  # 16 bits: n LN2_HI is exact in fp32 with and without an fma
    constants = {
        "RADIUS_LN2": [float(f32(float(4 * ln2 / 2**23)))],  # times the octave, which comes as a multiple of 2^23
        "LOG2E": [float(f32(float(1 / ln2)))],
        "LN2_HI": [hi],
        "LN2_LO": [float(f32(float(ln2 - hi)))],
        "LN2": [float(f32(float(ln2)))],
    }
    half = ln2 / 2 * (1 + mp.mpf(2) ** -18)  # rint(x / ln 2) is rounded: f may pass ln(2) / 2 by a little
    polynomials = {
        "RADIUS": fit(lambda f: (minus_4_log(f) + f) / f**2, lambda f: f**2 / minus_4_log(f), 8, -2, 0),
        "SIN": fit(lambda w: sine(w) - 1, lambda w: 1 / sine(w), 4, 0, 0.25),
        "COS": fit(lambda w: cosine(w) - 1, lambda w: 1 / cosine(w), 4, 0, 0.25),
        "EXP": fit(em1x_over_x2, lambda f: f**2 / mp.exp(f), 6, -half, half),
        "SIGMOID_EXP": fit(em1x_over_x2, lambda f: f**2 / mp.exp(f), 5, -half, half),
        "EM1X": fit(em1x_over_x2, lambda x: 1 / em1x_over_x2(x), 8, -1, 1),
        "EM1X_F64": fit(em1x_over_x2, lambda x: 1 / em1x_over_x2(x), 14, -1, 1, float),
        "LOG": fit(log1p_over_y2, lambda f: f**2 / mp.log1p(f), 9, float(mp.sqrt(0.5) - 1), float(mp.sqrt(2) - 1)),
        "LOG1P": fit(log1p_over_y2, lambda y: y**2 / mp.log1p(y), 9, 0, 1),
        "MILLS": fit(scaled_mills, lambda t: 1 / scaled_mills(t), 11, -1, 1),
        "MILLS_F64": interpolate(lambda t: scaled_mills(t, 4), 24),
    }
    constants |= {name: coefficients for name, (coefficients, _) in polynomials.items()}
    return constants, {name: error for name, (_, error) in polynomials.items()}


def fma(a, b, c) -> np.ndarray:
    """Product exact and sum rounded in fp64, then rounded to fp32: differs from a true fma in about 1 of 2^29 cases."""
    return (np.float64(a) * np.float64(b) + np.float64(c)).astype(f32)


def horner(coefficients: Sequence[float], x: np.ndarray) -> np.ndarray:
    value = np.full_like(x, f32(coefficients[-1]))
    for c in reversed(coefficients[:-1]):
        value = fma(value, x, c)
    return value


def bits(x: np.ndarray) -> np.ndarray:
    return x.astype(f32).view(np.uint32)


def radius(x: np.ndarray, k: dict[str, list[float]]) -> np.ndarray:
    value = x.view(np.int32).astype(f32) + f32(0.5)
    clamped = np.minimum(bits(value) - np.uint32(1), np.uint32(0x4F000000))
    scale = ~clamped & np.uint32(0x7F800000)
    octave = (scale - np.uint32(0x30800000)).astype(f32)
    f = fma(value, scale.view(f32), -np.minimum(octave, f32(4)))
    return np.sqrt(fma(f * f, horner(k["RADIUS"], f), fma(octave, k["RADIUS_LN2"][0], -f)))


def cosine_and_sine_normals(x: np.ndarray, angle: np.ndarray, k: dict[str, list[float]]) -> list[np.ndarray]:
    """The two normals of a word pair before bits 30 and 31 of `angle` swap them and flip the first."""
    r, y = radius(x, k), (angle << np.uint32(2)).view(np.int32).astype(f32) * f32(2.0**-32)
    w, ry = y * y, r * y
    return [fma(r, horner(k["COS"], w), r), fma(ry, horner(k["SIN"], w), ry)]


def exp(x: np.ndarray, k: dict[str, list[float]]) -> np.ndarray:
    n = fma(x, k["LOG2E"][0], 1.5 * 2**23) - f32(1.5 * 2**23)
    f = fma(n, -k["LN2_LO"][0], fma(n, -k["LN2_HI"][0], x))
    return np.ldexp(f32(1) + fma(f * f, horner(k["EXP"], f), f), n.astype(np.int32))


def em1x(x: np.ndarray, exp_x: np.ndarray, k: dict[str, list[float]]) -> np.ndarray:
    return np.where(np.abs(x) < 1, horner(k["EM1X"], x) * (x * x), (exp_x - f32(1)) - x)


def expm1(x: np.ndarray, exp_x: np.ndarray, k: dict[str, list[float]]) -> np.ndarray:
    return np.where(np.abs(x) < 1, x + em1x(x, exp_x, k), exp_x - f32(1))


def log(x: np.ndarray, k: dict[str, list[float]]) -> np.ndarray:
    n = (x.view(np.int32) - np.int32(0x3F3504F4)) >> 23
    f, n = (x.view(np.int32) - (n << 23)).view(f32) - f32(1), n.astype(f32)
    return fma(n, k["LN2_HI"][0], f + fma(f * f, horner(k["LOG"], f), n * f32(k["LN2_LO"][0])))


def log1p(y: np.ndarray, k: dict[str, list[float]]) -> np.ndarray:
    return fma(y * y, horner(k["LOG1P"], y), y)


def mills_ratio(a: np.ndarray, k: dict[str, list[float]]) -> np.ndarray:
    r = f32(1) / (a + f32(3))
    return r * horner(k["MILLS"], fma(-6.0, r, 1.0))


def report(name: str, value: np.ndarray, truth: np.ndarray) -> None:
    error = np.abs(value.astype(np.float64) - truth)
    ulp = error / np.spacing(np.abs(truth).astype(f32)).astype(np.float64)
    relative = np.max(error[truth != 0] / np.abs(truth[truth != 0]))
    print(f"{name:36} {ulp.max():8.3f} {ulp.mean():8.4f} {relative:10.2e} {error.max():10.2e}")


def word_pairs(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    def words(n: int) -> np.ndarray:
        return rng.integers(0, 2**32, n, dtype=np.uint32)

    near_zero = np.concatenate([np.tile(np.arange(4097, dtype=np.uint32), 256), words(1 << 20) >> words(1 << 20) % 32])
    sign = np.where(words(1 << 21) & 1, 1, 2**32 - 1).astype(np.uint32)
    offsets = (words(1 << 21) >> (2 + words(1 << 21) % 30)) * sign
    return {
        "random": (words(4_000_000), words(4_000_000)),
        "u near 1": (~near_zero, words(near_zero.size)),
        "u near 0": (near_zero, words(near_zero.size)),
        "angle near an axis": (words(offsets.size), offsets),
    }


def em1x_truth(x: np.ndarray) -> np.ndarray:
    series = x * x * np.polynomial.polynomial.polyval(x, [1 / float(mp.factorial(k + 2)) for k in range(16)])
    return np.where(np.abs(x) < 0.4, series, np.expm1(x) - x)


def report_errors(k: dict[str, list[float]]) -> None:
    print(f"\n{'fp32 error':36} {'max ulp':>8} {'mean ulp':>8} {'max rel':>10} {'max abs':>10}")
    rng = np.random.default_rng(0)
    for name, (x, angle) in word_pairs(rng).items():
        signed = (x.view(np.int32).astype(np.float64) + 0.5) * 2.0**-32  # u, or u - 1 for the upper half
        r = np.sqrt(-2 * np.where(signed > 0, np.log(np.abs(signed)), np.log1p(np.minimum(signed, 0))))
        theta = (angle << np.uint32(2)).view(np.int32) * (np.pi / 2 * 2.0**-32)
        report(f"R, {name}", radius(x, k), np.sqrt(2) * r)
        for part, z, trig in zip(("cos", "sin"), cosine_and_sine_normals(x, angle, k), (np.cos, np.sin), strict=True):
            report(f"z by {part}, {name}", z, r * trig(theta))
    x = rng.uniform(-87.3, 88.7, 4_000_000).astype(f32)
    report("exp on [-87.3, 88.7]", exp(x, k), np.exp(x.astype(np.float64)))
    small = (rng.uniform(-1, 1, 4_000_000) * 2.0 ** rng.integers(-20, 2, 4_000_000)).astype(f32)
    for name, x in {"|x| < 2, log-spaced": small, "[-100, 88]": rng.uniform(-100, 88, 2_000_000).astype(f32)}.items():
        exp_x, half, truth = exp(x, k), exp(x * f32(0.5), k), x.astype(np.float64)
        report(f"em1x on {name}", em1x(x, exp_x, k), em1x_truth(truth))
        report("  with e^x as the square of e^(x/2)", em1x(x, half * half, k), em1x_truth(truth))
        report(f"expm1 on {name}", expm1(x, exp_x, k), np.expm1(truth))
    x = np.exp(rng.uniform(-87, 88, 1_000_000)).astype(f32)
    report("log on [1e-38, 1e38]", log(x, k), np.log(x.astype(np.float64)))
    y = rng.uniform(0, 1, 1_000_000).astype(f32)
    report("log1p on [0, 1]", log1p(y, k), np.log1p(y.astype(np.float64)))
    a = np.concatenate([rng.uniform(0, 10, 2000), 10 ** rng.uniform(-6, 4, 2000)]).astype(f32)
    truth = [scaled_mills((v - 3) / (v + 3)) / (v + 3) for v in map(mp.mpf, a.tolist())]
    report("Mills ratio on [0, 1e4]", mills_ratio(a, k), np.array([float(m) for m in truth]))
    x64 = np.linspace(-1, 1, 20_001)[1:-1:2]
    h, p = x64 * x64, np.polynomial.polynomial.polyval(x64, k["EM1X_F64"][1:])
    truth = [em1x_over_x2(mp.mpf(v)) * mp.mpf(v) ** 2 for v in x64]
    worst = max(abs((mp.mpf(g) - t) / t) for g, t in zip(h * (x64 * p) + 0.5 * h, truth, strict=True))
    print(f"em1x in fp64 on (-1, 1), without fma: max relative error {float(worst):.2e}")


def literal(value: float, name: str) -> str:
    """C hex-float literal: six hex digits and `f` for fp32, thirteen for fp64."""
    mantissa, exponent = value.hex().split("p")
    whole, digits = mantissa.split(".")
    width, suffix = (13, "") if name.endswith("F64") else (6, "f")
    return f"{whole}.{digits[:width].ljust(width, '0')}p{exponent}{suffix}"


LITERAL = re.compile(
    r"(?<![\w.])(?:0[xX][\da-fA-F]+\.?[\da-fA-F]*[pP][+-]?\d+|(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?)[fF]?(?!\w)"
)


def literals_in(source: str) -> set[float]:
    """Floating literals of a C++ source outside comments, without sign, at the precision that their suffix gives."""
    code = re.sub(r"//[^\n]*|/\*.*?\*/", " ", source, flags=re.DOTALL)
    found = set()
    for token in LITERAL.findall(code):
        hexadecimal = token[:2].lower() == "0x"
        single = token[-1] in "fF"  # the exponent of a hex float is decimal, so a final f is always the suffix
        number = token.rstrip("fF")
        value = float.fromhex(number) if hexadecimal else float(number)
        found.add(float(f32(value)) if single else value)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", nargs="+", type=Path, metavar="FILE", help="sources that must hold every constant")
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="constants that they do not use")
    given = parser.parse_args()
    files = given.check
    constants, errors = derive()
    if files is not None:
        constants = {name: values for name, values in constants.items() if name not in given.without}
        found = set().union(*(literals_in(path.read_text()) for path in files))
        named = [(f"{name}[{i}]", name, c) for name, values in constants.items() for i, c in enumerate(values)]
        missing = [f"{label} = {literal(c, name)}" for label, name, c in named if abs(c) not in found]
        print("\n".join(f"missing: {m}" for m in missing) or "every constant found")
        return 1 if missing else 0
    for name, values in constants.items():
        error = f"   // approximation error 2^{np.log2(errors[name]):.1f}" if name in errors else ""
        print(f"{name}{error}")
        for i, value in enumerate(values):
            print(f"  [{i:2}] {literal(value, name):>28}   {value:.{17 if name.endswith('F64') else 9}g}")
    report_errors(constants)
    return 0


if __name__ == "__main__":
    sys.exit(main())
