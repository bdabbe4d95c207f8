"""GAN losses, interpolates between samples, penalties on a gradient's norm."""

import torch
from torch.nn.functional import relu, softplus

import dgmkern

from .case import Case, summed

# what eager code writes: (discriminator's loss, generator's loss)
EAGER = {
    "minmax": lambda r, f: (softplus(-r).mean() + softplus(f).mean(), -softplus(f).mean()),
    "nonsaturating": lambda r, f: (softplus(-r).mean() + softplus(f).mean(), softplus(-f).mean()),
    "least_squares": lambda r, f: (((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2, ((f - 1) ** 2).mean() / 2),
    "wasserstein": lambda r, f: (f.mean() - r.mean(), -f.mean()),
    "hinge": lambda r, f: (relu(1 - r).mean() + relu(1 + f).mean(), -f.mean()),
}


def not_empty(shape: tuple[int, ...]) -> bool:
    """A mean over nothing is NaN: tested by itself."""
    return 0 not in shape


def gan_loss_case(kind: str) -> Case:
    return Case(
        f"gan_loss_{kind}",
        2,
        lambda real, fake: dgmkern.gan_loss(real, fake, kind),
        EAGER[kind],
        False,
        fits=not_empty,
        same_shape=False,
    )


def with_weights(x: list[torch.Tensor]) -> list[torch.Tensor]:
    """Two batches and a weight in (0, 1) for each of their samples."""
    return [*x, torch.linspace(0.1, 0.8, len(x[0]), dtype=x[0].dtype)]


def eager_interpolate(x, y, alpha):
    a = alpha.reshape(-1, *[1] * (x.dim() - 1))
    return (a * x + (1 - a) * y,)


CASES = [
    *(gan_loss_case(kind) for kind in EAGER),
    Case(
        "gan_generator_loss",
        1,
        lambda fake: (dgmkern.gan_generator_loss(fake, "nonsaturating"),),
        lambda fake: (softplus(-fake).mean(),),
        False,
        fits=not_empty,
    ),
    Case(
        "interpolate",
        2,
        lambda x, y, alpha: (dgmkern.interpolate(x, y, alpha=alpha),),
        eager_interpolate,
        False,
        domain=with_weights,
        same_dtype=False,
    ),
    Case(
        "gradient_norm_penalty",
        1,
        lambda grad: (dgmkern.gradient_norm_penalty(grad),),
        lambda grad: ((summed(grad**2).sqrt() - 1) ** 2,),
        False,
    ),
    Case(
        "gradient_norm_penalty_one_sided",
        1,
        lambda grad: (dgmkern.gradient_norm_penalty(grad, target=1.5, one_sided=True),),
        lambda grad: (relu(summed(grad**2).sqrt() - 1.5) ** 2,),
        False,
    ),
]
