"""Group normalization, modulation and SiLU."""

import torch
from torch import Tensor

import dgmkern

from .case import Case


def groups_of(x: Tensor) -> int:
    """As many groups as leave each 16 channels, or 2 of few: two numbers that happen to agree are normalized badly."""
    least = 16 if x.shape[1] >= 32 else min(2, x.shape[1])
    return max(g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0 and least * g <= x.shape[1])


def with_parameters(normals: list[Tensor]) -> list[Tensor]:
    """x, weight and bias [C]; of more normals also scale and shift [N, C]."""
    x, *rest = normals
    if any(n == 0 for n in x.shape):  # nothing to take them from
        of_channels = [x.new_ones(x.shape[:2]) for _ in rest]
    else:
        of_channels = [r.reshape(*x.shape[:2], -1)[:, :, 0] for r in rest]
    parameters = [(p[0] if len(p) else p.new_ones(x.shape[1])) if i < 2 else p for i, p in enumerate(of_channels)]
    return [x, *(p.contiguous() for p in parameters)]


def over_pixels(p: Tensor, x: Tensor) -> Tensor:
    return p.reshape(*p.shape, *[1] * (x.dim() - 2))


def eager(x, weight, bias, scale=None, shift=None):
    h = torch.group_norm(x, groups_of(x), weight, bias, 1e-5)
    if scale is not None:
        h = h * (1 + over_pixels(scale, x)) + over_pixels(shift, x)
    return (torch.nn.functional.silu(h),)


def ours(x, weight, bias, scale=None, shift=None):
    groups = groups_of(x) if isinstance(x, Tensor) else 1
    return (dgmkern.group_norm_silu(x, groups, weight, bias, scale=scale, shift=shift),)


def bounded(x, weight, bias, scale, shift):
    """Large scales, but finite: see the docstring of the op."""
    bound = isinstance(scale, Tensor) and scale.is_floating_point()
    return x, weight, bias, scale.clamp(-1e4, 1e4) if bound else scale, shift


def fits(shape: tuple[int, ...]) -> bool:
    """[N, C, ...]; eager torch refuses images without pixels."""
    return len(shape) >= 2 and all(shape[1:])


CASES = [
    Case(
        "group_norm_silu",
        3,
        ours,
        eager,
        False,
        domain=with_parameters,
        fits=fits,
        same_dtype=False,
        limits=(1,),
        sums=True,
    ),
    Case(
        "group_norm_silu_modulated",
        5,
        lambda *x: ours(*bounded(*x)),
        lambda *x: eager(*bounded(*x)),
        False,
        domain=with_parameters,
        fits=fits,
        same_dtype=False,
        limits=(1,),
        sums=True,
    ),
]
