"""The steps of the polar iteration: odd quintics X <- X (a I + b G + c G^2), G = X^T X, derived where they are used.

A step maps a singular value x to p(x) = a x + b x^3 + c x^5. Until the smallest singular values have grown, every step
is the same: the quintic closest to 1 on [CUSHION, 1], over its maximum and MARGIN, so that nothing comes out above
1 / MARGIN and nothing above CUSHION below `floor`. It multiplies small values by 4.17. The steepest quintic, without a
cushion, has 4.22, but takes large values to some that are lost in rounding (N. Amsel, D. Persson, C. Musco and
R. Gower, "The Polar Express", 2025, who compose the best odd polynomials so). Then each step is the quintic closest to
1 on the interval that the one before leaves. The last is Newton-Schulz, (15 x - 10 x^3 + 3 x^5) / 8: 1 is a fixed point
that it comes to with an error cubed, rounding errors included.
"""

import functools
import math

import numpy as np

CUSHION = 0.01
MARGIN = 1.01  # what rounding may do to a singular value of 1 before the quintics send it off
NEWTON_SCHULZ = (15 / 8, -10 / 8, 3 / 8)  # 5/2 e^3 is left of an error e
OPENING = {"strict": 23, "low": 12}  # steps of fp64, and of two bf16 a number, whose rounding hides smaller values

Quintic = tuple[float, float, float]


def closest_to_1(least: float) -> tuple[Quintic, float]:
    """The odd quintic closest to 1 on [least, 1], 0 < least < 1, and its distance E, which it has at four points with
    alternating signs (Remez)."""
    inner = np.array([least + (1 - least) / 3, least + 2 * (1 - least) / 3])
    for _ in range(100):
        x = np.array([least, *inner, 1.0])
        a, b, c, e = np.linalg.solve(np.stack([x, x**3, x**5, [1, -1, 1, -1]], 1), np.ones(4))
        root = math.sqrt(9 * b * b - 20 * a * c)
        previous, inner = inner, np.sqrt(np.array([-3 * b - root, -3 * b + root]) / (10 * c))  # where p' = 0
        if np.abs(inner - previous).max() < 1e-13:
            break
    return (float(a), float(b), float(c)), float(e)


def _rounded(quintic: Quintic, over: float) -> Quintic:
    """Coefficients over a number, in fp32: as such they are arguments of a kernel."""
    return tuple(float(np.float32(c / over)) for c in quintic)


@functools.cache
def steps() -> tuple[Quintic, list[Quintic], float, float]:
    """(a, b, c) of the opening step, of the closing steps, the floor of an opening step, and by what it multiplies the
    smallest singular values at least."""
    quintic, e = closest_to_1(CUSHION)
    over = MARGIN * (1 + e)
    opening, floor = _rounded(quintic, over), (1 - e) / over
    closing, least = [], floor
    while e > 1e-5:
        quintic, e = closest_to_1(least)
        over = 1.0 if e <= 1e-5 else MARGIN * (1 + e)
        closing.append(_rounded(quintic, over))
        least = (1 - e) / over
    grows = floor / CUSHION  # p(x) / x falls up to the first minimum of the error, and p(CUSHION) = floor
    return opening, [*closing, NEWTON_SCHULZ], floor, grows


def sequence(mode: str) -> list[Quintic]:
    """The steps of "strict" or "low" mode."""
    opening, closing, _, _ = steps()
    return [opening] * OPENING[mode] + closing


def least_converged(mode: str) -> float:
    """Singular values from this one up to 1 come out as 1, but for rounding."""
    _, _, floor, grows = steps()
    return floor / grows ** OPENING[mode]
