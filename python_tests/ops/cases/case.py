"""What a contract case is, and what the families' eager formulas share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def as_they_are(x: list[Tensor]) -> list[Tensor]:
    return x


@dataclass(frozen=True)
class Case:
    """`call` and `eager` take the inputs (all differentiable) and keyword noise= or seed= where the op draws.

    Attributes:
        inputs: number of fp64 tensors of normals, of the shape that a test asks for, that `domain` makes inputs of.
        domain: normals -> inputs, for an op whose inputs differ in shape or take no negative numbers, say.
        fits: whether the op takes inputs made of this shape.
        noise_as: number of the input whose shape the noise has.
        samples: how many samples of each datum the op draws, as [N, samples, ...]; None: one, [N, ...].
        limits: numbers of the inputs where an infinity makes the eager formula NaN (inf - inf) and ours its limit.
        same_dtype: whether all inputs must have the dtype of the first.
        integers: numbers of the inputs that may be integers.
        same_shape: whether the shapes of the inputs must fit each other.
        sums: whether every element of the results depends on sums over others, whose order goes with the memory layout.
        splits: whether a part of a batch, given its offset, gives that part of the whole batch's results.
        ties: whether a gradient goes to any one of several equal numbers, of which bf16 and fp16 have many.
        by_reference: numbers of the inputs whose gradients come from plain torch, which compiled code rounds otherwise.
        generates: whether an op that draws takes generator=, and draws a seed where it is given none.
    """

    name: str
    inputs: int
    call: Callable[..., tuple[Tensor, ...]]
    eager: Callable[..., tuple[Tensor, ...]]
    draws: bool
    domain: Callable[[list[Tensor]], list[Tensor]] = as_they_are
    fits: Callable[[tuple[int, ...]], bool] = lambda shape: True
    noise_as: int = 0
    samples: int | None = None
    limits: tuple[int, ...] = ()
    same_dtype: bool = True
    integers: tuple[int, ...] = ()
    same_shape: bool = True
    splits: bool = True
    generates: bool = True
    ties: bool = False
    by_reference: tuple[int, ...] = ()
    sums: bool = False

    def __str__(self) -> str:
        return self.name

    def make(self, shape, dtype=torch.float32, spread=1.0, seed=17) -> list[Tensor]:
        """Inputs of a dtype, made of normals of `shape` times `spread`."""
        generator = torch.Generator().manual_seed(seed)
        normals = [torch.randn(shape, generator=generator, dtype=torch.float64) * spread for _ in range(self.inputs)]
        return [x.to(dtype) for x in self.domain(normals)]

    def noise_shape(self, x: list[Tensor]) -> tuple[int, ...]:
        shape = x[self.noise_as].shape
        return tuple(shape) if self.samples is None else (shape[0], self.samples, *shape[1:])


def summed(x: Tensor) -> Tensor:
    """Over all dimensions but the first. [N, ...] -> [N]"""
    return x.sum(tuple(range(1, x.dim()))) if x.dim() > 1 else x


def largest(x: Tensor) -> float:
    return x.double().abs().max().item() if x.numel() else 0.0


def outputs_and_gradients(
    function: Callable[..., tuple[Tensor, ...]],
    x: list[Tensor],
    how: dict[str, Tensor | int],
    cotangents: list[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs of function(*x, **how), and gradients by x and by the tensors in `how`.

    A cotangent takes the device and dtype of its output.
    """
    x = [t.detach().clone().requires_grad_() for t in x]
    how = {k: v.detach().clone().requires_grad_() if isinstance(v, Tensor) else v for k, v in how.items()}
    outputs = function(*x, **how)
    pairs = [(o, c.to(o.device, o.dtype)) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    differentiable, upstream = zip(*pairs, strict=True)
    wanted = [*x, *(v for v in how.values() if isinstance(v, Tensor))]
    grads = torch.autograd.grad(differentiable, wanted, upstream, allow_unused=True, materialize_grads=True)
    return [o.detach() for o in outputs], [*grads]
