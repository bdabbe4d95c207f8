"""KL divergences of one element of diagonal Gaussians, and their derivatives. Formulas: csrc/math/gaussian.h."""

import triton
import triton.language as tl

from ._math import exp_minus_1, exp_minus_1_minus_x, exp_of


@triton.jit
def _exp_of_difference(a, b, d):
    """e^(a - b) where d is a - b rounded: what rounding lost, half an ulp of d, would cost 16 ulp at |d| = 32."""
    back = a - d
    lost = (a - (d + back)) - (b - back)  # exact (Knuth)
    e = exp_of(d)
    better = e + e * lost
    return tl.where(better == better, better, e)  # NaN: e or d is not finite


@triton.jit
def kl_standard(mu, logvar, sigma):
    """From N(0, 1); sigma = e^(logvar / 2)."""
    return 0.5 * (mu * mu + exp_minus_1_minus_x(logvar, sigma * sigma))


@triton.jit
def kl_standard_by_logvar(logvar, sigma):
    """Twice its derivative by logvar; the one by mu is mu."""
    return exp_minus_1(logvar, sigma * sigma)


@triton.jit
def kl_between(diff, logvar, logvar_p):
    """Of Gaussians whose means differ by diff."""
    d = logvar - logvar_p
    e = _exp_of_difference(logvar, logvar_p, d)
    return 0.5 * (diff * diff * exp_of(-logvar_p) + exp_minus_1_minus_x(d, e))


@triton.jit
def kl_between_grad(g, diff, logvar, logvar_p):
    """g times its derivatives by the first mean and the first logvar."""
    d = logvar - logvar_p
    e = _exp_of_difference(logvar, logvar_p, d)
    return g * diff * exp_of(-logvar_p), 0.5 * g * exp_minus_1(d, e)
