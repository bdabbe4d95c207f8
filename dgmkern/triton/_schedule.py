"""The steps of a batch and what a diffusion schedule makes of them: fp64 [ROWS, 1] for the samples of a tile.

A step outside the schedule gives NaN, never a read outside the table. `table` is fp64 [rows, count], dense.
"""

import triton
import triton.language as tl

SIGNAL = tl.constexpr(0)  # rows of DiffusionSchedule.p_table, the first two those of q_table
SIGMA = tl.constexpr(1)
MEAN_X0 = tl.constexpr(2)
MEAN_X = tl.constexpr(3)
LOGVAR_SMALL = tl.constexpr(4)
LOGVAR_LARGE = tl.constexpr(5)
LOG_BETA = tl.constexpr(6)


@triton.jit
def steps_of(t, t_stride, rows, samples):
    """The steps of samples, int64 [ROWS, 1]; t [N] with any stride, 0 where one step is meant for all."""
    return tl.load(t + rows * t_stride, rows < samples, other=0)


@triton.jit
def at_step(table, row: tl.constexpr, count, step):
    """Row `row` of the table at steps."""
    inside = (step >= 0) & (step < count)
    return tl.where(inside, tl.load(table + row * count + tl.where(inside, step, 0)), float("nan"))


@triton.jit
def level_at(table, count, step):
    """sqrt(abar) and sqrt(1 - abar) at steps."""
    return at_step(table, SIGNAL, count, step), at_step(table, SIGMA, count, step)


@triton.jit
def level_after(table, count, step):
    """sqrt(abar) and sqrt(1 - abar) at the step that one goes to: -1 is x_0 itself."""
    signal, sigma = level_at(table, count, step)
    return tl.where(step == -1, 1.0, signal), tl.where(step == -1, 0.0, sigma)


@triton.jit
def to_x0(signal, sigma, PREDICTION: tl.constexpr):
    """(by_x, by_out) with x_0 = by_x x_t + by_out model_out."""
    if PREDICTION == "eps":
        return 1.0 / signal, -sigma / signal
    elif PREDICTION == "v":
        return signal, -sigma
    else:
        return signal * 0.0, signal * 0.0 + 1.0


@triton.jit
def log_variance(table, count, step, VARIANCE: tl.constexpr):
    """log sigma^2 = first + second v, with v what the model gives."""
    small = at_step(table, LOGVAR_SMALL, count, step)
    if VARIANCE == "fixed_small":
        return small, small * 0.0
    elif VARIANCE == "fixed_large":
        return at_step(table, LOGVAR_LARGE, count, step), small * 0.0
    elif VARIANCE == "learned":
        return small * 0.0, small * 0.0 + 1.0
    else:
        large = at_step(table, LOG_BETA, count, step)
        return (large + small) / 2, (large - small) / 2


@triton.jit
def ddim(signal, sigma, signal_next, sigma_next, ETA: tl.constexpr):
    """by_x, by_x0 and the noise's standard deviation (Song et al. 2021, eq. 12 and 16)."""
    gap = sigma * sigma - sigma_next * sigma_next  # 1 - abar / abar_next = gap / abar_next
    variance = ETA * ETA * sigma_next * sigma_next * gap / (sigma * sigma * signal_next * signal_next)
    drawn = tl.where(variance < 0, 0.0, variance)  # none on the way up
    left = sigma_next * sigma_next - drawn
    kept = tl.sqrt(tl.where(left < 0, 0.0, left))
    return kept / sigma, signal_next - kept * signal / sigma, tl.sqrt(drawn)


@triton.jit
def dpm_solver(signal, sigma, signal_next, sigma_next, signal_last, sigma_last, SECOND_ORDER: tl.constexpr):
    """by_x, by_x0 and by_last of DPM-Solver++(2M) (Lu et al. 2022, algorithm 2)."""
    by_d = signal_next - signal * sigma_next / sigma
    half_ratio = by_d * 0.0
    if SECOND_ORDER:
        ends = sigma_next <= 0
        h = tl.log(signal_next * sigma / (tl.where(ends, 1.0, sigma_next) * signal))
        h_last = tl.log(signal * sigma_last / (sigma * signal_last))
        half_ratio = tl.where(ends, half_ratio, h / (2 * h_last))
    return sigma_next / sigma, by_d * (1 + half_ratio), -by_d * half_ratio
