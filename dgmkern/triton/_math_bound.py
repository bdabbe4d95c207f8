"""A diffusion model's training losses of one element: what it is to predict, a step's KL divergence and the likelihood
of the first one, with their derivatives. Formulas: csrc/math/bound.h and diffusion.h. Arguments are fp32 or fp64.
"""

import math

import triton
import triton.language as tl

from ._math import exp_minus_1, exp_minus_1_minus_x, exp_of
from ._math_likelihood import discretized_gaussian_grad, discretized_gaussian_nll
from ._schedule import LOGVAR_SMALL, MEAN_X, MEAN_X0, at_step, log_variance

BITS = tl.constexpr(1 / math.log(2))  # of a nat


@triton.jit
def target_of(x0, eps, signal, sigma, PREDICTION: tl.constexpr):
    """What the model is to predict; NaN where the step is none."""
    if PREDICTION == "eps":
        return eps + signal * 0.0
    elif PREDICTION == "v":
        return signal * eps - sigma * x0
    else:
        return x0 + signal * 0.0


@triton.jit
def error_of_x0(signal, sigma, PREDICTION: tl.constexpr):
    """x_0 less the predicted x_0 is this times (out - target)."""
    if PREDICTION == "eps":
        return sigma / signal
    elif PREDICTION == "v":
        return sigma
    else:
        return signal * 0.0 - 1.0


@triton.jit
def raw_x0(x, out, by_x, by_out, PREDICTION: tl.constexpr):
    """The x_0 that the model's output means; an infinite x plays no part where that is x_0 itself."""
    if PREDICTION == "x0":
        return by_x + by_out * out  # 0 + 1 out; NaN where the step is none
    else:
        return by_x * x + by_out * out


@triton.jit
def kl_step(table, count, step, VARIANCE: tl.constexpr, C: tl.constexpr):
    """Of samples' steps: the posterior's coefficient of x_0, in fp64; in C that of x_t, the posterior's precision, the
    model's log-variance, first + second v, and the posterior's log-variance less the first."""
    small = at_step(table, LOGVAR_SMALL, count, step)
    logvar, logvar_by = log_variance(table, count, step, VARIANCE)
    mean_x = at_step(table, MEAN_X, count, step).to(C)
    precision = tl.exp(-small).to(C)
    gap = (small - logvar).to(C)
    return at_step(table, MEAN_X0, count, step), mean_x, precision, logvar.to(C), logvar_by.to(C), gap


@triton.jit
def _kl(diff, d, precision):
    """KL(q || p) of Gaussians whose means differ by diff; d = log var_q - log var_p, precision = 1 / var_q."""
    exp_d = exp_of(d)
    return 0.5 * (diff * diff * (precision * exp_d) + exp_minus_1_minus_x(d, exp_d))


@triton.jit
def _kl_grad(diff, d, precision):
    """Its derivatives by diff and log var_p."""
    exp_d = exp_of(d)
    ddiff = diff * (precision * exp_d)
    return ddiff, -0.5 * (diff * ddiff + exp_minus_1(d, exp_d))


@triton.jit
def bound_term(step, data, mean, diff, v, precision, logvar, logvar_by, gap):
    """Nats of an element: the KL divergence, the likelihood where the step is 0. `mean` is the model's, `diff` the
    posterior's mean less that, v what the model says of the variance."""
    nats = _kl(diff, gap - logvar_by * v, precision)
    if tl.max(tl.where(step == 0, 1, 0)) > 0:  # few samples: the likelihood costs more than all the rest
        nll = discretized_gaussian_nll(data, mean, 0.5 * (logvar + logvar_by * v))
        nats = tl.where(step == 0, nll, nats)
    return nats


@triton.jit
def bound_term_grad(step, data, mean, diff, v, precision, logvar, logvar_by, gap):
    """Its derivatives by minus the mean, and by the model's log-variance."""
    dmean, dlogvar = _kl_grad(diff, gap - logvar_by * v, precision)
    if tl.max(tl.where(step == 0, 1, 0)) > 0:
        by_mean, by_log_scale = discretized_gaussian_grad(data, mean, 0.5 * (logvar + logvar_by * v))
        dmean = tl.where(step == 0, -by_mean, dmean)
        dlogvar = tl.where(step == 0, 0.5 * by_log_scale, dlogvar)
    return dmean, dlogvar


@triton.jit
def factor_of_mean(grad, weight, rows, mask, inner):
    """The gradient by each element's term of a mean over a sample, fp64 [ROWS, 1]."""
    factor = tl.load(grad + rows, mask, other=0.0).to(tl.float64) / inner
    if weight is not None:
        factor *= tl.load(weight + rows, mask, other=0.0)
    return factor
