"""The adversarial game: GAN losses of both players, random interpolates, penalties on a critic's gradient."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .. import _library, reference
from .._library import call
from ..reference.adversarial import KINDS
from ..reference.gaussian import compute_dtype
from ..reference.layout import empty_as
from ._arguments import check_alike, check_batch, check_floating, drawn_seed

_WEIGHTS = "Tensor? alpha, Tensor? seed, SymInt offset"


def _scalar(x: Tensor) -> Tensor:
    return x.new_empty((), dtype=compute_dtype(x))


def _per_sample(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:1], dtype=compute_dtype(x))


_gan = _library.define(
    "gan_loss(Tensor logits_real, Tensor logits_fake, str kind) -> (Tensor, Tensor)",
    reference.adversarial.gan_loss,
    lambda logits_real, logits_fake, kind: (_scalar(logits_fake), _scalar(logits_fake)),
)
_gan_backward = _library.define(
    "gan_loss_backward(Tensor? grad_d, Tensor? grad_g, Tensor logits_real, Tensor logits_fake, str kind)"
    " -> (Tensor, Tensor)",
    reference.adversarial.gan_loss_backward,
    lambda grad_d, grad_g, logits_real, logits_fake, kind: (empty_as(logits_real), empty_as(logits_fake)),
)
_generator = _library.define(
    "gan_generator_loss(Tensor logits_fake, str kind) -> Tensor",
    reference.adversarial.gan_generator_loss,
    lambda logits_fake, kind: _scalar(logits_fake),
)
_generator_backward = _library.define(
    "gan_generator_loss_backward(Tensor grad, Tensor logits_fake, str kind) -> Tensor",
    reference.adversarial.gan_generator_loss_backward,
    lambda grad, logits_fake, kind: empty_as(logits_fake),
)
_interpolate = _library.define(
    f"interpolate(Tensor x, Tensor y, {_WEIGHTS}) -> Tensor",
    reference.adversarial.interpolate,
    lambda x, y, alpha, seed, offset: empty_as(x),
)
_interpolate_backward = _library.define(
    f"interpolate_backward(Tensor grad, Tensor x, Tensor y, {_WEIGHTS}) -> (Tensor, Tensor, Tensor)",
    reference.adversarial.interpolate_backward,
    lambda grad, x, y, alpha, seed, offset: (empty_as(x), empty_as(x), _per_sample(x)),
)
_penalty = _library.define(
    "gradient_norm_penalty(Tensor grad, float target, bool one_sided) -> Tensor",
    reference.adversarial.gradient_norm_penalty,
    lambda grad, target, one_sided: _per_sample(grad),
)
_penalty_backward = _library.define(
    "gradient_norm_penalty_backward(Tensor grad_penalty, Tensor grad, float target, bool one_sided) -> Tensor",
    reference.adversarial.gradient_norm_penalty_backward,
    lambda grad_penalty, grad, target, one_sided: empty_as(grad),
)

_Gan = _library.differentiable(_gan, _gan_backward, ("logits_real", "logits_fake"))
_Generator = _library.differentiable(_generator, _generator_backward, ("logits_fake",))
_Interpolate = _library.differentiable(_interpolate, _interpolate_backward, ("x", "y", "alpha"))
_Penalty = _library.differentiable(_penalty, _penalty_backward, ("grad",))


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")


def gan_loss(logits_real: Tensor, logits_fake: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Mean losses of both players of a GAN, to be minimized, from one read of the discriminator's scores.

    | kind | discriminator | generator |
    |---|---|---|
    | "minmax" (Goodfellow et al. 2014, eq. 1) | -E log D(r) - E log(1 - D(f)) | E log(1 - D(f)) |
    | "nonsaturating" (the same, section 3) | -E log D(r) - E log(1 - D(f)) | -E log D(f) |
    | "least_squares" (Mao et al. 2017, eq. 9) | E (r - 1)^2 / 2 + E f^2 / 2 | E (f - 1)^2 / 2 |
    | "wasserstein" (Arjovsky et al. 2017, eqs. 2, 3) | E f - E r | -E f |
    | "hinge" (Lim & Ye 2017; Miyato et al. 2018, eqs. 16, 17) | E max(0, 1 - r) + E max(0, 1 + f) | -E f |

    r and f are `logits_real` and `logits_fake`, D = sigmoid; the logarithms are softplus of the logits, without
    overflow or cancellation. In nats for the first two. Differentiable any number of times by both inputs; the slope of
    the hinge at its kink is 0. A generator's step needs no real scores: `gan_generator_loss`.

    Args:
        logits_real: scores of real samples before any sigmoid, of any shape; float64, float32, bfloat16 or float16.
        logits_fake: scores of generated samples, of any shape; dtype and device of logits_real.
        kind: one of the above.

    Returns:
        (discriminator's loss, generator's loss), without dimensions, float32 (float64 for float64). NaN where a mean is
        over no scores.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype or device; an unknown kind.
    """
    _check_kind(kind)
    check_floating("logits_real", logits_real)
    check_floating("logits_fake", logits_fake)
    if logits_fake.dtype != logits_real.dtype:
        raise TypeError(f"logits_fake: expected the dtype {logits_real.dtype} of logits_real, got {logits_fake.dtype}")
    if logits_fake.device != logits_real.device:
        raise ValueError(
            f"logits_fake: expected the device {logits_real.device} of logits_real, got {logits_fake.device}"
        )
    return call(_gan, _Gan, logits_real, logits_fake, kind)


def gan_generator_loss(logits_fake: Tensor, kind: str) -> Tensor:
    """The generator's mean loss alone: the second result of `gan_loss`, for a step without real samples.

    Args:
        logits_fake: scores of generated samples before any sigmoid, of any shape; float64, float32, bfloat16, float16.
        kind: as in `gan_loss`.

    Returns:
        The loss, without dimensions, float32 (float64 for float64).

    Raises:
        TypeError, ValueError: an argument of the wrong type or dtype; an unknown kind.
    """
    _check_kind(kind)
    check_floating("logits_fake", logits_fake)
    return call(_generator, _Generator, logits_fake, kind)


def _weights(
    x: Tensor, alpha: Tensor | None, generator: torch.Generator | None, seed: int | Tensor | None, offset: int
) -> tuple[Tensor | None, Tensor | None]:
    """(alpha in the compute dtype, seed), one of them None."""
    if alpha is None:
        return None, drawn_seed(x.device, generator, seed, offset)
    if seed is not None or generator is not None:
        raise ValueError("alpha: give alpha, or one of seed and generator, not both")
    check_floating("alpha", alpha)
    if alpha.shape != x.shape[:1]:
        raise ValueError(f"alpha: expected shape {tuple(x.shape[:1])}, one weight per sample, got {tuple(alpha.shape)}")
    if alpha.device != x.device:
        raise ValueError(f"alpha: expected the device {x.device} of the samples, got {alpha.device}")
    return alpha.to(compute_dtype(x)), None


def interpolate(
    x: Tensor,
    y: Tensor,
    *,
    alpha: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """Points between pairs of samples: alpha_n x_n + (1 - alpha_n) y_n (Gulrajani et al. 2017, algorithm 1, line 6).

    alpha_n ~ U(0, 1) is a function of (seed, offset + n): with i = offset + n and w = word i % 4 of Philox4x32-10 under
    the key `seed` and the counter i // 4, alpha_n = (floor(w / 2^9) + 1/2) / 2^23. It is never 0 or 1, alpha_n and
    1 - alpha_n are exact in fp32, and neither dtype, layout, threads nor a split of the batch over ranks change it.
    alpha = 1 gives x exactly, alpha = 0 gives y. Differentiable any number of times by x, y and alpha.

    Args:
        x, y: [N, ...], same shape, dtype and device; float64, float32, bfloat16 or float16; contiguous and
            channels_last are read in place.
        alpha: [N], floating; the weights, instead of drawn ones. Used in float32 (float64 for float64 samples).
        seed: int or int64 tensor of one element.
        generator: draw the seed from it; by default from torch's generator of the device.
        offset: number of the first sample, for a part of a larger batch (a data-parallel rank).

    Returns:
        The points, like x.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or alpha beside a seed.
    """
    check_batch("x", x)
    check_alike("y", y, "x", x)
    alpha, seed = _weights(x, alpha, generator, seed, offset)
    return call(_interpolate, _Interpolate, x, y, alpha, seed, offset)


def _check_target(target: float) -> None:
    if isinstance(target, bool) or not isinstance(target, (int, float)):
        raise TypeError(f"target: expected a number, got {type(target).__name__}")
    if not (target >= 0 and math.isfinite(target)):
        raise ValueError(f"target: expected a finite norm >= 0, got {target}")


def gradient_norm_penalty(grad: Tensor, *, target: float = 1.0, one_sided: bool = False) -> Tensor:
    """(||grad_n|| - target)^2 per sample (Gulrajani et al. 2017, eq. 3), ||.|| the Euclidean norm.

    one_sided: max(0, ||grad_n|| - target)^2 (there, section 4; Petzka et al. 2018). target 0 gives ||grad_n||^2, which
    is twice the R1 and R2 penalties for gamma = 1 (Mescheder et al. 2018, eq. 9). Squares are summed in fp64: no
    overflow for any fp32 gradient. Differentiable any number of times; where grad_n is 0, its gradient is 0, not NaN.

    Args:
        grad: [N, ...], for example the gradient of a critic's scores by its inputs; float64, float32, bfloat16 or
            float16.
        target: the norm that costs nothing, >= 0.
        one_sided: penalize only norms above the target.

    Returns:
        The penalty [N], float32 (float64 for float64).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype or shape; a target below 0 or not finite.
    """
    _check_target(target)
    check_batch("grad", grad)
    return call(_penalty, _Penalty, grad, float(target), bool(one_sided))


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    *,
    alpha: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
    target: float = 1.0,
    one_sided: bool = False,
) -> Tensor:
    """(||grad_x critic(x_n)|| - target)^2 per sample at x = `interpolate(real, fake, ...)`: the penalty of WGAN-GP.

    Gulrajani et al. 2017, eq. 3 and algorithm 1; add lambda (10 there) times its mean to the critic's loss. The
    gradient is that of the summed scores: a critic whose scores mix the samples (batch normalization) is not penalized
    for each sample. Differentiable by the critic's parameters, and by real and fake where they ask for it; without a
    graph under torch.no_grad(). Under torch.compile the critic runs eagerly here: compiled code has no double backward.

    Args:
        critic: a function or module that maps [N, ...] to scores; it may use more than that of its own (labels, say).
        real, fake: [N, ...], as x and y of `interpolate`.
        alpha, generator, seed, offset: as in `interpolate`.
        target, one_sided: as in `gradient_norm_penalty`.

    Returns:
        The penalty [N], float32 (float64 for float64).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or alpha beside a seed; a critic
            whose scores do not depend on its input.
    """
    if not callable(critic):
        raise TypeError(f"critic: expected a function of a tensor, got {type(critic).__name__}")
    _check_target(target)
    check_batch("real", real)
    check_alike("fake", fake, "real", real)
    alpha, seed = _weights(real, alpha, generator, seed, offset)
    # torch.compile has no double backward: there the critic runs in eager mode, between two graphs
    compiling = torch.compiler.is_compiling()
    input_gradient = torch.compiler.disable(_input_gradient) if compiling else _input_gradient
    grad = input_gradient(critic, real, fake, alpha, seed, offset)
    return gradient_norm_penalty(grad, target=target, one_sided=one_sided)


def _input_gradient(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    alpha: Tensor | None,
    seed: Tensor | None,
    offset: int,
) -> Tensor:
    """The gradient of the critic's summed scores by its input, between real and fake; with a graph if one is wanted."""
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        x = call(_interpolate, _Interpolate, real, fake, alpha, seed, offset)
        if not x.requires_grad:
            x.requires_grad_()
        scores = critic(x)
        if not isinstance(scores, Tensor):
            raise TypeError(f"critic: expected a function that returns a tensor, got {type(scores).__name__}")
        grad = None
        if scores.requires_grad:
            (grad,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=recording, allow_unused=True)
    if grad is None:
        raise ValueError("critic: expected scores that depend on the input, differentiably")
    return grad
