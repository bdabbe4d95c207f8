"""What the training steps of all cases share."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import dgmkern
from dgmkern.train.adamw import adamw_step
from dgmkern.train.products import fast_products
from perf.steps.case import Step


def usual_step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Step:
    """The step as it is usually written."""

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def our_step(
    player: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    precision: str = "fp32",
) -> Step:
    """A step of `player` by `loss` of a seed: that of `train.update.Update`, less what the usual code has not.

    That is the norm of the gradient, and the look whether all is finite.
    """
    optimizer = torch.optim.AdamW(player.parameters(), lr=lr, betas=betas, weight_decay=0.0, fused=True)
    parameters, seed = list(player.parameters()), 0

    def step() -> float:
        nonlocal seed
        seed += 1
        for parameter in parameters:
            parameter.grad = None
        with fast_products():
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                value = loss(seed)
            value.backward()
        adamw_step(optimizer)
        return value.item()

    return step


def flops_of(build: Callable[[], Step]) -> int:
    """Floating-point operations of the products and convolutions of a step."""
    step = build()
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def compiled(loss: Callable[[Tensor], Tensor]) -> Callable[[int], Tensor]:
    """A loss of a seed through torch.compile; there the seed is a tensor, as a number would be compiled in."""
    function = torch.compile(loss, dynamic=False)
    return lambda seed: function(torch.tensor([seed]))


def check_gradients(
    player: nn.Module, ours: Callable[[nn.Module], Tensor], plain: Callable[[nn.Module], Tensor]
) -> None:
    """Raise AssertionError unless loss and gradients of `ours` are those of `plain` in fp64.

    `plain` gets a copy of the player in fp64. Gradients are compared by parameter in the Euclidean norm, to 1e-4 of it,
    or of a hundredth of the whole gradient's, as a critic's biases nearly cancel. Single elements would show a ReLU
    whose input is 0 to rounding.
    """
    wide = copy.deepcopy(player).double()
    with fast_products():
        value = ours(player)
        gradients = torch.autograd.grad(value, list(player.parameters()), materialize_grads=True)
    want = plain(wide)
    wanted = torch.autograd.grad(want, list(wide.parameters()), materialize_grads=True)
    torch.testing.assert_close(value.detach().double(), want.detach(), rtol=1e-5, atol=1e-7)
    floor = 0.01 * nn.utils.get_total_norm(wanted)
    for got, right, (name, _) in zip(gradients, wanted, player.named_parameters(), strict=True):
        error = ((got - right).norm() / torch.maximum(right.norm(), floor)).item()
        assert error <= 1e-4, f"gradient by {name}: off by {error:.1e} of its norm"


def check_autocast(
    player: nn.Module, ours: Callable[[nn.Module], Tensor], plain: Callable[[nn.Module], Tensor]
) -> None:
    """Raise AssertionError where bf16 autocast costs `ours` more than `plain`, whose fp64 says what is right.

    The loss may be off by 1%, the gradient by three times as much as that of `plain` under autocast.
    """

    def found(loss: Callable[[nn.Module], Tensor], network: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        with fast_products(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = loss(network)
        gradients = torch.autograd.grad(value, list(network.parameters()), materialize_grads=True)
        return value.detach().double(), torch.cat([gradient.double().flatten() for gradient in gradients])

    usual, wide = copy.deepcopy(player), copy.deepcopy(player).double()
    value, gradient = found(ours, player, torch.bfloat16)
    _, of_plain = found(plain, usual, torch.bfloat16)
    want, right = found(plain, wide, torch.float64)
    torch.testing.assert_close(value, want, rtol=1e-2, atol=0)
    error, allowed = (gradient - right).norm(), 3 * (of_plain - right).norm()
    assert error <= allowed, f"gradient under autocast: off by {error:.1e}, want at most {allowed:.1e}"


def normals(*shape: int, seed: int) -> Tensor:
    """The noise of our ops in fp64, rounded as it is drawn."""
    return dgmkern.normal(shape, seed).double()
