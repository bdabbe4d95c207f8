"""Losses of the adversarial game on one score, their derivatives, and penalties on a norm.

Formulas: csrc/math/adversarial.h. KIND is one of dgmkern.reference.adversarial.KINDS.
"""

import triton
import triton.language as tl

from ._math_logistic import sigmoid, softplus


@triton.jit
def real_loss(x, KIND: tl.constexpr):
    """The discriminator's loss on the score of a real sample."""
    if KIND == "least_squares":
        return 0.5 * (x - 1.0) * (x - 1.0)
    elif KIND == "wasserstein":
        return -x
    elif KIND == "hinge":
        return tl.where(x > 1.0, 0.0, 1.0 - x)
    else:
        return softplus(-x)


@triton.jit
def fake_loss(x, KIND: tl.constexpr):
    """Its loss on the score of a generated sample."""
    if KIND == "least_squares":
        return 0.5 * x * x
    elif KIND == "wasserstein":
        return x
    elif KIND == "hinge":
        return tl.where(x < -1.0, 0.0, 1.0 + x)
    else:
        return softplus(x)


@triton.jit
def generator_loss(x, KIND: tl.constexpr):
    """The generator's loss on that score."""
    if KIND == "minmax":
        return -softplus(x)
    elif KIND == "nonsaturating":
        return softplus(-x)
    elif KIND == "least_squares":
        return 0.5 * (x - 1.0) * (x - 1.0)
    else:
        return -x


@triton.jit
def real_slope(x, KIND: tl.constexpr):
    """The derivative of `real_loss`; at the kink of the hinge 0, as torch's relu has it."""
    if KIND == "least_squares":
        return x - 1.0
    elif KIND == "wasserstein":
        return tl.zeros_like(x) - 1.0
    elif KIND == "hinge":
        return tl.where(x >= 1.0, 0.0, tl.zeros_like(x) - 1.0)
    else:
        return -sigmoid(-x)


@triton.jit
def fake_slope(x, KIND: tl.constexpr):
    """The derivative of `fake_loss`."""
    if KIND == "least_squares":
        return x
    elif KIND == "wasserstein":
        return tl.zeros_like(x) + 1.0
    elif KIND == "hinge":
        return tl.where(x <= -1.0, 0.0, tl.zeros_like(x) + 1.0)
    else:
        return sigmoid(x)


@triton.jit
def generator_slope(x, KIND: tl.constexpr):
    """The derivative of `generator_loss`."""
    if KIND == "minmax":
        return -sigmoid(x)
    elif KIND == "nonsaturating":
        return -sigmoid(-x)
    elif KIND == "least_squares":
        return x - 1.0
    else:
        return tl.zeros_like(x) - 1.0


@triton.jit
def penalty_of(square, TARGET: tl.constexpr, ONE_SIDED: tl.constexpr):
    """(norm - target)^2; one-sided: 0 below the target. fp64."""
    excess = tl.sqrt(square) - TARGET
    if ONE_SIDED:
        excess = tl.where(excess <= 0.0, 0.0, excess)
    return excess * excess


@triton.jit
def penalty_slope(square, TARGET: tl.constexpr, ONE_SIDED: tl.constexpr):
    """Its derivative by the norm, over the norm. 0 where the vector is 0 (2 for the target 0: smooth there)."""
    norm = tl.sqrt(square)
    slope = 2.0 * (norm - TARGET) / tl.where(norm == 0.0, 1.0, norm)
    slope = tl.where(norm == 0.0, 2.0 if TARGET == 0 else 0.0, slope)
    return tl.where(norm <= TARGET, 0.0, slope) if ONE_SIDED else slope
