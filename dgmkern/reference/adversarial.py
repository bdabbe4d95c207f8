"""The adversarial game in plain torch: losses of both players, random interpolates, penalties on a gradient's norm.

Arithmetic in fp32 (fp64 for fp64); `kind` is one of KINDS, alpha [N] in the compute dtype, offset counts samples.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from .gaussian import compute_dtype, over_samples, per_sample
from .layout import laid_out_as
from .noise import uniform

KINDS = ("minmax", "nonsaturating", "least_squares", "wasserstein", "hinge")


def _real_loss(x: Tensor, kind: str) -> Tensor:
    """The discriminator's loss on scores of real samples: -log D(x) for the first two kinds, D = sigmoid."""
    if kind == "least_squares":
        return (x - 1) ** 2 / 2
    if kind == "wasserstein":
        return -x
    return relu(1 - x) if kind == "hinge" else -logsigmoid(x)


def _fake_loss(x: Tensor, kind: str) -> Tensor:
    """Its loss on scores of generated samples: -log(1 - D(x)) for the first two kinds."""
    if kind == "least_squares":
        return x**2 / 2
    if kind == "wasserstein":
        return x
    return relu(1 + x) if kind == "hinge" else -logsigmoid(-x)


def _generator_loss(x: Tensor, kind: str) -> Tensor:
    """The generator's loss on those scores: log(1 - D(x)) or -log D(x) for the first two kinds."""
    if kind == "minmax":
        return logsigmoid(-x)
    if kind == "nonsaturating":
        return -logsigmoid(x)
    return (x - 1) ** 2 / 2 if kind == "least_squares" else -x


def _real_slope(x: Tensor, kind: str) -> Tensor:
    if kind == "least_squares":
        return x - 1
    if kind == "wasserstein":
        return -torch.ones_like(x)
    return torch.where(x >= 1, 0.0, -1.0).to(x.dtype) if kind == "hinge" else -torch.sigmoid(-x)


def _fake_slope(x: Tensor, kind: str) -> Tensor:
    if kind == "least_squares":
        return x
    if kind == "wasserstein":
        return torch.ones_like(x)
    return torch.where(x <= -1, 0.0, 1.0).to(x.dtype) if kind == "hinge" else torch.sigmoid(x)


def _generator_slope(x: Tensor, kind: str) -> Tensor:
    if kind == "minmax":
        return -torch.sigmoid(x)
    if kind == "nonsaturating":
        return -torch.sigmoid(-x)
    return x - 1 if kind == "least_squares" else -torch.ones_like(x)


def _mean(losses: Tensor) -> Tensor:
    """Summed in fp64, so that the result hardly depends on the number of threads."""
    return losses.mean(dtype=torch.float64).to(losses.dtype)


def gan_loss(logits_real: Tensor, logits_fake: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Mean losses (discriminator, generator), each without dimensions."""
    c = compute_dtype(logits_fake)
    real, fake = logits_real.to(c), logits_fake.to(c)
    return _mean(_real_loss(real, kind)) + _mean(_fake_loss(fake, kind)), _mean(_generator_loss(fake, kind))


def gan_loss_backward(
    grad_d: Tensor | None, grad_g: Tensor | None, logits_real: Tensor, logits_fake: Tensor, kind: str
) -> tuple[Tensor, Tensor]:
    """Gradients by the two tensors of scores. A loss without a gradient (None) plays no part."""
    c = compute_dtype(logits_fake)
    real, fake = logits_real.to(c), logits_fake.to(c)
    n, dreal, dfake = max(fake.numel(), 1), torch.zeros_like(real), torch.zeros_like(fake)
    if grad_d is not None:
        dreal = grad_d / max(real.numel(), 1) * _real_slope(real, kind)
        dfake = grad_d / n * _fake_slope(fake, kind)
    if grad_g is not None:
        dfake = dfake + grad_g / n * _generator_slope(fake, kind)
    return (
        laid_out_as(logits_real, dreal.to(logits_real.dtype)),
        laid_out_as(logits_fake, dfake.to(logits_fake.dtype)),
    )


def gan_generator_loss(logits_fake: Tensor, kind: str) -> Tensor:
    """The generator's mean loss alone."""
    return _mean(_generator_loss(logits_fake.to(compute_dtype(logits_fake)), kind))


def gan_generator_loss_backward(grad: Tensor, logits_fake: Tensor, kind: str) -> Tensor:
    """Its gradient by the scores."""
    fake = logits_fake.to(compute_dtype(logits_fake))
    dfake = grad / max(fake.numel(), 1) * _generator_slope(fake, kind)
    return laid_out_as(logits_fake, dfake.to(logits_fake.dtype))


def _weights(x: Tensor, alpha: Tensor | None, seed: Tensor | None, offset: int) -> Tensor:
    """alpha, given or drawn, in the compute dtype, broadcastable over x."""
    return over_samples(uniform(x.shape[0], seed, offset) if alpha is None else alpha, x).to(compute_dtype(x))


def interpolate(x: Tensor, y: Tensor, alpha: Tensor | None, seed: Tensor | None, offset: int) -> Tensor:
    """alpha_n x_n + (1 - alpha_n) y_n; without alpha, alpha_n = uniform number offset + n of the seed."""
    a = _weights(x, alpha, seed, offset)
    return laid_out_as(x, (a * x + (1 - a) * y).to(x.dtype))


def interpolate_backward(
    grad: Tensor, x: Tensor, y: Tensor, alpha: Tensor | None, seed: Tensor | None, offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """alpha grad, (1 - alpha) grad, and per sample the sum of grad (x - y), which is 0 where alpha is drawn."""
    a, grad = _weights(x, alpha, seed, offset), laid_out_as(x, grad)
    dx, dy = (a * grad).to(x.dtype), ((1 - a) * grad).to(x.dtype)
    if alpha is None:
        dalpha = a.new_zeros(x.shape[0])
    else:
        dalpha = per_sample(grad.to(a.dtype) * (x.to(a.dtype) - y.to(a.dtype)))
    return laid_out_as(x, dx), laid_out_as(x, dy), dalpha


def gradient_norm_penalty(grad: Tensor, target: float, one_sided: bool) -> Tensor:
    """(||grad_n|| - target)^2 per sample; one-sided: max(0, ||grad_n|| - target)^2. Squares are summed in fp64."""
    excess = per_sample(grad.double() ** 2).sqrt() - target
    return (relu(excess) if one_sided else excess).square().to(compute_dtype(grad))


def gradient_norm_penalty_backward(grad_penalty: Tensor, grad: Tensor, target: float, one_sided: bool) -> Tensor:
    """grad_penalty 2 (1 - target / ||grad_n||) grad_n: 0 for a gradient of 0."""
    square = per_sample(grad.double() ** 2)
    zero = square == 0
    norm = torch.where(zero, 1.0, square).sqrt()  # differentiable where the gradient is 0
    slope = torch.where(zero, 2.0 if target == 0 else 0.0, 2 * (norm - target) / norm)
    if one_sided:
        slope = torch.where(torch.where(zero, 0.0, norm) <= target, 0.0, slope)
    by_norm = over_samples((grad_penalty * slope).to(compute_dtype(grad)), grad)
    return laid_out_as(grad, (by_norm * grad).to(grad.dtype))
