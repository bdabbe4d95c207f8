"""The adversarial game: losses of both players, random interpolates, penalties on a gradient's norm.

Formulas: csrc/math/adversarial.h. `kind` is one of dgmkern.reference.adversarial.KINDS.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.gaussian import compute_dtype
from ..reference.layout import empty_as
from ._launch import TILE, Operands, launch, power_of_2
from ._math_logistic import sigmoid, softplus
from ._random import uniform_of
from ._tile import elements_of, load, store, store_sum, sum_columns, tile_of

_ALONE = 16 * TILE  # scores that one program adds up


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
def _sum(terms, mask):
    return tl.sum(tl.where(mask, terms, 0.0).to(tl.float64), 0)


@triton.jit
def _store_losses(real, fake, generator, loss_d, loss_g, reals, fakes):
    """Means of the sums; a mean over nothing is NaN."""
    if loss_d is not None:
        mean = real / reals + fake / fakes
        tl.store(loss_d, mean.to(loss_d.dtype.element_ty))
    tl.store(loss_g, (generator / fakes).to(loss_g.dtype.element_ty))


@triton.jit
def _loss_kernel(
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


@triton.jit
def _finish_losses(sums, loss_d, loss_g, reals, fakes, parts, BLOCK: tl.constexpr):
    part = tl.arange(0, BLOCK)
    mask = part < parts
    real = tl.sum(tl.load(sums + part * 3, mask, other=0.0), 0)
    fake = tl.sum(tl.load(sums + part * 3 + 1, mask, other=0.0), 0)
    generator = tl.sum(tl.load(sums + part * 3 + 2, mask, other=0.0), 0)
    _store_losses(real, fake, generator, loss_d, loss_g, reals, fakes)


@triton.jit
def _slopes_kernel(
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


@triton.jit
def _weight(alpha, seed, offset, rows, mask):
    """The weights of samples, [ROWS, 1]: given, or drawn."""
    if alpha is not None:
        return load(alpha + rows, mask)
    else:
        return uniform_of(rows + offset, tl.load(seed))


@triton.jit
def _interpolate_kernel(
    x,
    y,
    alpha,
    seed,
    offset,
    out,
    samples,
    inner,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first = tile_of(inner, COLS, ROWS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, 1, "given", COLS)
    a = _weight(alpha, seed, offset, rows, rows < samples)
    store(out + at, a * load(x + at, mask) + (1.0 - a) * load(y + at, mask), mask)


@triton.jit
def _interpolate_backward_kernel(
    grad,
    x,
    y,
    alpha,
    seed,
    offset,
    dx,
    dy,
    dalpha,
    samples,
    inner,
    part,
    IN_PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Without alpha, dalpha is None."""
    rows, first = tile_of(inner, part, ROWS, WIDE)
    a = _weight(alpha, seed, offset, rows, rows < samples)
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, tl.minimum(first + part, inner), COLS):
        at, mask = elements_of(rows, column, samples, inner, 1, "given", COLS)
        g = load(grad + at, mask)
        store(dx + at, a * g, mask)
        store(dy + at, (1.0 - a) * g, mask)
        if dalpha is not None:
            total += sum_columns(g * (load(x + at, mask) - load(y + at, mask)), mask)
    if dalpha is not None:
        store_sum(dalpha, total, rows, first, part, samples, inner, IN_PARTS)


@triton.jit
def _squares(grad, rows, first, end, samples, inner, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Sums of squares of columns `first` to `end`, fp64 [ROWS, 1]: no gradient of fp32 overflows or vanishes."""
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, end, COLS):
        at, mask = elements_of(rows, column, samples, inner, 1, "given", COLS)
        g = load(grad + at, mask).to(tl.float64)
        total += sum_columns(g * g, mask)
    return total


@triton.jit
def _penalty(square, TARGET: tl.constexpr, ONE_SIDED: tl.constexpr):
    """(norm - target)^2; one-sided: 0 below the target. fp64."""
    excess = tl.sqrt(square) - TARGET
    if ONE_SIDED:
        excess = tl.where(excess <= 0.0, 0.0, excess)
    return excess * excess


@triton.jit
def _penalty_slope(square, TARGET: tl.constexpr, ONE_SIDED: tl.constexpr):
    """Its derivative by the norm, over the norm. 0 where the vector is 0 (2 for the target 0: smooth there)."""
    norm = tl.sqrt(square)
    slope = 2.0 * (norm - TARGET) / tl.where(norm == 0.0, 1.0, norm)
    slope = tl.where(norm == 0.0, 2.0 if TARGET == 0 else 0.0, slope)
    return tl.where(norm <= TARGET, 0.0, slope) if ONE_SIDED else slope


@triton.jit
def _penalty_kernel(
    grad,
    penalty,
    samples,
    inner,
    part,
    TARGET: tl.constexpr,
    ONE_SIDED: tl.constexpr,
    IN_PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Penalties [N], or sums of squares [N, parts] where a sample has more than one part."""
    rows, first = tile_of(inner, part, ROWS, WIDE)
    square = _squares(grad, rows, first, tl.minimum(first + part, inner), samples, inner, ROWS, COLS)
    if IN_PARTS:
        store_sum(penalty, square, rows, first, part, samples, inner, True)
    else:
        result = _penalty(square, TARGET, ONE_SIDED)
        tl.store(penalty + rows, result.to(penalty.dtype.element_ty), rows < samples)


@triton.jit
def _square_of_parts(squares, row, parts, BLOCK: tl.constexpr):
    part = tl.arange(0, BLOCK)
    return tl.sum(tl.load(squares + row * parts + part, part < parts, other=0.0), 0)


@triton.jit
def _finish_penalty(squares, penalty, parts, TARGET: tl.constexpr, ONE_SIDED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    result = _penalty(_square_of_parts(squares, row, parts, BLOCK), TARGET, ONE_SIDED)
    tl.store(penalty + row, result.to(penalty.dtype.element_ty))


@triton.jit
def _penalty_backward_kernel(
    grad_penalty,
    grad,
    squares,
    out,
    parts,
    samples,
    inner,
    part,
    TARGET: tl.constexpr,
    ONE_SIDED: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """`squares` [N, parts] where a sample has more than one part, PARTS being a power of 2; else it is None, and a
    program reads its samples twice."""
    rows, first = tile_of(inner, part, ROWS, WIDE)
    end = tl.minimum(first + part, inner)
    if squares is None:
        square = _squares(grad, rows, first, end, samples, inner, ROWS, COLS)
    else:
        square = tl.zeros([ROWS, 1], tl.float64) + _square_of_parts(squares, tl.max(rows), parts, PARTS)
    by_penalty = tl.load(grad_penalty + rows, rows < samples, other=0.0).to(tl.float64)
    c: tl.constexpr = tl.float64 if grad.dtype.element_ty == tl.float64 else tl.float32
    factor = (by_penalty * _penalty_slope(square, TARGET, ONE_SIDED)).to(c)
    for column in range(first, end, COLS):
        at, mask = elements_of(rows, column, samples, inner, 1, "given", COLS)
        store(out + at, factor * load(grad + at, mask), mask)


def _check_scores(real: Tensor | None, fake: Tensor, *grads: Tensor | None) -> None:
    if real is not None and (real.dtype is not fake.dtype or real.device != fake.device):
        raise ValueError(f"logits_real: expected {fake.dtype} on {fake.device}, got {real.dtype} on {real.device}")
    for grad in grads:
        if grad is not None and (grad.numel() != 1 or grad.dtype is not compute_dtype(fake)):
            raise ValueError(
                f"grad: expected one element of {compute_dtype(fake)}, got {grad.dtype} {tuple(grad.shape)}"
            )


def _losses(real: Tensor | None, fake: Tensor, kind: str) -> tuple[Tensor | None, Tensor]:
    _check_scores(real, fake)
    c, fakes, reals = compute_dtype(fake), fake.numel(), 0 if real is None else real.numel()
    fake_scores, real_scores = Operands(fake).dense(fake), None if real is None else Operands(real).dense(real)
    loss_d, loss_g = None if real is None else fake.new_empty((), dtype=c), fake.new_empty((), dtype=c)
    parts = min(1024, max(1, -(-max(reals, fakes) // _ALONE)))
    sums = fake.new_empty((parts, 3), dtype=torch.float64) if parts > 1 else None
    results, each = (loss_d, loss_g), (-(-reals // parts), -(-fakes // parts))
    block = min(TILE, power_of_2(max(*each, 1)))
    args = (real_scores, fake_scores, *results, sums, reals, fakes, *each)
    launch(_loss_kernel, parts, fake.device, *args, KIND=kind, BLOCK=block)
    if parts > 1:
        launch(_finish_losses, 1, fake.device, sums, *results, reals, fakes, parts, BLOCK=power_of_2(parts))
    return results


def _slopes(
    grad_d: Tensor | None, grad_g: Tensor | None, real: Tensor | None, fake: Tensor, kind: str
) -> tuple[Tensor | None, Tensor]:
    _check_scores(real, fake, grad_d, grad_g)
    dreal, dfake = None if real is None else empty_as(real), empty_as(fake)
    reals, fakes = 0 if real is None else real.numel(), fake.numel()
    block = min(TILE, power_of_2(max(reals, fakes, 1)))
    real_programs, fake_programs = -(-reals // block), -(-fakes // block)
    if reals + fakes > 0:
        scores = None if real is None else Operands(real).dense(real), Operands(fake).dense(fake)
        args = (grad_d, grad_g, *scores, dreal, dfake, reals, fakes, real_programs)
        launch(_slopes_kernel, real_programs + fake_programs, fake.device, *args, KIND=kind, BLOCK=block)
    return dreal, dfake


def gan_loss(logits_real: Tensor, logits_fake: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Mean losses (discriminator, generator), each without dimensions."""
    return _losses(logits_real, logits_fake, kind)


def gan_loss_backward(
    grad_d: Tensor | None, grad_g: Tensor | None, logits_real: Tensor, logits_fake: Tensor, kind: str
) -> tuple[Tensor, Tensor]:
    """Gradients by the two tensors of scores. A loss without a gradient (None) plays no part."""
    return _slopes(grad_d, grad_g, logits_real, logits_fake, kind)


def gan_generator_loss(logits_fake: Tensor, kind: str) -> Tensor:
    """The generator's mean loss alone."""
    return _losses(None, logits_fake, kind)[1]


def gan_generator_loss_backward(grad: Tensor, logits_fake: Tensor, kind: str) -> Tensor:
    """Its gradient by the scores."""
    return _slopes(None, grad, None, logits_fake, kind)[1]


def _seed(alpha: Tensor | None, seed: Tensor | None, x: Tensor) -> Tensor | None:
    """The seed, which must be there where no alpha is given."""
    if alpha is not None:
        return None
    if seed is None or seed.dtype is not torch.int64 or seed.numel() != 1 or seed.device != x.device:
        raise ValueError(f"seed: expected an int64 tensor of one element on {x.device} where no alpha is given")
    return seed


def interpolate(x: Tensor, y: Tensor, alpha: Tensor | None, seed: Tensor | None, offset: int) -> Tensor:
    """alpha_n x_n + (1 - alpha_n) y_n; without alpha, alpha_n = uniform number offset + n of the seed."""
    tensors = Operands(x)
    out = tensors.out()
    alpha = tensors.per_sample(alpha, "alpha")
    tensors.run(_interpolate_kernel, tensors.dense(x), tensors.dense(y, "y"), alpha, _seed(alpha, seed, x), offset, out)
    return out


def interpolate_backward(
    grad: Tensor, x: Tensor, y: Tensor, alpha: Tensor | None, seed: Tensor | None, offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """alpha grad, (1 - alpha) grad, and per sample the sum of grad (x - y), which is 0 where alpha is drawn."""
    tensors = Operands(x, sums=True)
    dx, dy, dense_grad = tensors.out(), tensors.out(), tensors.dense(grad, "grad")
    if alpha is None:
        seed = _seed(None, seed, x)
        tensors.run(_interpolate_backward_kernel, dense_grad, None, None, None, seed, offset, dx, dy, None)
        return dx, dy, x.new_zeros(x.shape[:1], dtype=compute_dtype(x))
    dalpha = tensors.sum()
    inputs = (dense_grad, tensors.dense(x), tensors.dense(y, "y"), tensors.per_sample(alpha, "alpha"))
    tensors.run(_interpolate_backward_kernel, *inputs, None, 0, dx, dy, dalpha.target)
    return dx, dy, tensors.finished(dalpha)


def gradient_norm_penalty(grad: Tensor, target: float, one_sided: bool) -> Tensor:
    """(||grad_n|| - target)^2 per sample; one-sided: max(0, ||grad_n|| - target)^2. Squares are summed in fp64."""
    tensors, how = Operands(grad, sums=True), {"TARGET": target, "ONE_SIDED": one_sided}
    penalty = grad.new_empty(grad.shape[:1], dtype=compute_dtype(grad))
    if tensors.numel == 0:
        return penalty.fill_(0.0 if one_sided else target * target)
    if tensors.parts == 1:
        tensors.run(_penalty_kernel, tensors.dense(grad), penalty, **how)
        return penalty
    squares = tensors.sum().target
    tensors.run(_penalty_kernel, tensors.dense(grad), squares, **how)
    blocks = {"BLOCK": power_of_2(tensors.parts)}
    launch(_finish_penalty, tensors.samples, grad.device, squares, penalty, tensors.parts, **how, **blocks)
    return penalty


def gradient_norm_penalty_backward(grad_penalty: Tensor, grad: Tensor, target: float, one_sided: bool) -> Tensor:
    """grad_penalty 2 (1 - target / ||grad_n||) grad_n: 0 for a gradient of 0."""
    tensors, how = Operands(grad, sums=True), {"TARGET": target, "ONE_SIDED": one_sided}
    out, g, squares = tensors.out(), tensors.dense(grad), None
    if tensors.numel > 0 and tensors.parts > 1:
        squares = tensors.sum().target
        tensors.run(_penalty_kernel, g, squares, **how)
    args = (tensors.per_sample(grad_penalty, "grad_penalty"), g, squares, out, tensors.parts)
    tensors.run(_penalty_backward_kernel, *args, **how, PARTS=power_of_2(tensors.parts))
    return out
