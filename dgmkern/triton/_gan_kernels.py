"""Mean losses of the players of the adversarial game, and their gradients by the scores."""

import triton
import triton.language as tl

from ._math_adversarial import fake_loss, fake_slope, generator_loss, generator_slope, real_loss, real_slope
from ._tile import kernel, load, store


@triton.jit
def _sum(terms, mask):
    return tl.sum(tl.where(mask, terms, 0.0).to(tl.float64), 0)


@triton.jit
def _store_losses(real, fake, generator, loss_d, loss_g, reals, fakes):
    """Means of the sums; a mean over nothing is NaN."""
    if loss_d is not None:
        mean = real / reals + fake / fakes
        tl.store(loss_d, mean.to(loss_d.dtype.element_ty))
    tl.store(loss_g, (generator / fakes).to(loss_g.dtype.element_ty))


@kernel
def loss_kernel(
    real,
    fake,
    loss_d,
    loss_g,
    sums,
    reals,
    fakes,
    reals_a_part,
    fakes_a_part,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mean losses, or their `sums` fp64 [parts, 3] where there is more than one part. Without loss_d the generator's
    alone."""
    program = tl.program_id(0).to(tl.int64)
    by_real = tl.zeros([], tl.float64)
    by_fake = tl.zeros([], tl.float64)
    by_generator = tl.zeros([], tl.float64)
    if loss_d is not None:
        first = program * reals_a_part
        end = tl.minimum(first + reals_a_part, reals)
        for start in range(first, end, BLOCK):
            at = start + tl.arange(0, BLOCK)
            by_real += _sum(real_loss(load(real + at, at < end), KIND), at < end)
    first = program * fakes_a_part
    end = tl.minimum(first + fakes_a_part, fakes)
    for start in range(first, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = load(fake + at, at < end)
        if loss_d is not None:
            by_fake += _sum(fake_loss(x, KIND), at < end)
        by_generator += _sum(generator_loss(x, KIND), at < end)
    if sums is None:
        _store_losses(by_real, by_fake, by_generator, loss_d, loss_g, reals, fakes)
    else:
        tl.store(sums + program * 3, by_real)
        tl.store(sums + program * 3 + 1, by_fake)
        tl.store(sums + program * 3 + 2, by_generator)


@kernel
def finish_losses(sums, loss_d, loss_g, reals, fakes, parts, BLOCK: tl.constexpr):
    part = tl.arange(0, BLOCK)
    mask = part < parts
    real = tl.sum(tl.load(sums + part * 3, mask, other=0.0), 0)
    fake = tl.sum(tl.load(sums + part * 3 + 1, mask, other=0.0), 0)
    generator = tl.sum(tl.load(sums + part * 3 + 2, mask, other=0.0), 0)
    _store_losses(real, fake, generator, loss_d, loss_g, reals, fakes)


@kernel
def slopes_kernel(
    grad_d,
    grad_g,
    real,
    fake,
    dreal,
    dfake,
    reals,
    fakes,
    real_programs,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients by the scores; a loss whose gradient is None plays no part. The first programs have the real ones."""
    program = tl.program_id(0).to(tl.int64)
    if real is not None:  # noqa: SIM102 (one is known to the compiler)
        if program < real_programs:
            at = program * BLOCK + tl.arange(0, BLOCK)
            mask = at < reals
            x = load(real + at, mask)
            slope = tl.zeros_like(x)
            if grad_d is not None:
                slope = (tl.load(grad_d).to(tl.float64) / reals).to(x.dtype) * real_slope(x, KIND)
            store(dreal + at, slope, mask)
    if program >= real_programs:
        at = (program - real_programs) * BLOCK + tl.arange(0, BLOCK)
        mask = at < fakes
        x = load(fake + at, mask)
        slope = tl.zeros_like(x)
        if grad_d is not None:
            slope = (tl.load(grad_d).to(tl.float64) / fakes).to(x.dtype) * fake_slope(x, KIND)
        if grad_g is not None:
            slope += (tl.load(grad_g).to(tl.float64) / fakes).to(x.dtype) * generator_slope(x, KIND)
        store(dfake + at, slope, mask)
