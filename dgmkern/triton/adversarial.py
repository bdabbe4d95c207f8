"""The adversarial game: losses of both players, random interpolates, penalties on a gradient's norm. Kernels:
_gan_kernels.py and _penalty_kernels.py.

`kind` is one of dgmkern.reference.adversarial.KINDS.
"""

import torch
from torch import Tensor

from ..reference.gaussian import compute_dtype
from ..reference.layout import empty_as
from ._gan_kernels import finish_losses, loss_kernel, slopes_kernel
from ._launch import TILE, Operands, launch, power_of_2
from ._penalty_kernels import (
    finish_penalty,
    interpolate_backward_kernel,
    interpolate_kernel,
    penalty_backward_kernel,
    penalty_kernel,
)

_ALONE = 16 * TILE  # scores that one program adds up


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
    results, each = (loss_d, loss_g), tuple(16 * -(-n // (16 * parts)) for n in (reals, fakes))
    block = min(TILE, power_of_2(max(*each, 1)))
    args = (real_scores, fake_scores, *results, sums, reals, fakes, *each)
    launch(loss_kernel, parts, fake.device, *args, KIND=kind, BLOCK=block)
    if parts > 1:
        launch(finish_losses, 1, fake.device, sums, *results, reals, fakes, parts, BLOCK=power_of_2(parts))
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
        launch(slopes_kernel, real_programs + fake_programs, fake.device, *args, KIND=kind, BLOCK=block)
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
    tensors.run(interpolate_kernel, tensors.dense(x), tensors.dense(y, "y"), alpha, _seed(alpha, seed, x), offset, out)
    return out


def interpolate_backward(
    grad: Tensor, x: Tensor, y: Tensor, alpha: Tensor | None, seed: Tensor | None, offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """alpha grad, (1 - alpha) grad, and per sample the sum of grad (x - y), which is 0 where alpha is drawn."""
    tensors = Operands(x, sums=True)
    dx, dy, dense_grad = tensors.out(), tensors.out(), tensors.dense(grad, "grad")
    if alpha is None:
        seed = _seed(None, seed, x)
        tensors.run(interpolate_backward_kernel, dense_grad, None, None, None, seed, offset, dx, dy, None)
        return dx, dy, x.new_zeros(x.shape[:1], dtype=compute_dtype(x))
    dalpha = tensors.sum()
    inputs = (dense_grad, tensors.dense(x), tensors.dense(y, "y"), tensors.per_sample(alpha, "alpha"))
    tensors.run(interpolate_backward_kernel, *inputs, None, 0, dx, dy, dalpha.target)
    return dx, dy, tensors.finished(dalpha)


def gradient_norm_penalty(grad: Tensor, target: float, one_sided: bool) -> Tensor:
    """(||grad_n|| - target)^2 per sample; one-sided: max(0, ||grad_n|| - target)^2. Squares are summed in fp64."""
    tensors, how = Operands(grad, sums=True), {"TARGET": target, "ONE_SIDED": one_sided}
    penalty = grad.new_empty(grad.shape[:1], dtype=compute_dtype(grad))
    if tensors.numel == 0:
        return penalty.fill_(0.0 if one_sided else target * target)
    if tensors.parts == 1:
        tensors.run(penalty_kernel, tensors.dense(grad), penalty, **how)
        return penalty
    squares = tensors.sum().target
    tensors.run(penalty_kernel, tensors.dense(grad), squares, **how)
    blocks = {"BLOCK": power_of_2(tensors.parts)}
    launch(finish_penalty, tensors.samples, grad.device, squares, penalty, tensors.parts, **how, **blocks)
    return penalty


def gradient_norm_penalty_backward(grad_penalty: Tensor, grad: Tensor, target: float, one_sided: bool) -> Tensor:
    """grad_penalty 2 (1 - target / ||grad_n||) grad_n: 0 for a gradient of 0."""
    tensors, how = Operands(grad, sums=True), {"TARGET": target, "ONE_SIDED": one_sided}
    out, g, squares = tensors.out(), tensors.dense(grad), None
    if tensors.numel > 0 and tensors.parts > 1:
        squares = tensors.sum().target
        tensors.run(penalty_kernel, g, squares, **how)
    args = (tensors.per_sample(grad_penalty, "grad_penalty"), g, squares, out, tensors.parts)
    tensors.run(penalty_backward_kernel, *args, **how, PARTS=power_of_2(tensors.parts))
    return out
