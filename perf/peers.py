"""How the usual torch formula of an op is run: eager, compiled, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch

from perf.case import Inputs, Output, Variant

# Inductor draws its own random numbers with a scalar loop on the CPU; fallback_random calls ATen's generator instead
# and is the fair opponent. Both are shown, since the first is what a user gets.
COMPILED = {"compile": {}, "compile fallback_random": {"fallback_random": True}}


def torch_variants(
    formula: Callable[..., Any], arguments: str, *, random: bool, wrap: Callable[[Callable], Callable] = lambda run: run
) -> dict[str, Variant]:
    """Variants `eager`, `compile` and, where the formula draws numbers, `compile fallback_random`.

    Args:
        formula: plain torch code of tensors.
        arguments: names of the inputs it takes, separated by blanks.
        random: whether it draws random numbers.
        wrap: applied to each variant's run function, for example `forward_backward(...)`.
    """
    names = arguments.split()
    take = attrgetter(*names) if len(names) > 1 else lambda inputs: (getattr(inputs, names[0]),)

    def variant(function: Callable[..., Any]) -> Variant:
        return Variant(wrap(lambda inputs: function(*take(inputs))))

    variants = {"eager": variant(formula)}
    for name, options in COMPILED.items():
        if random or not options:
            variants[name] = variant(torch.compile(formula, dynamic=False, options=options or None))
    return variants


def forward_backward(leaves: str, upstream: str) -> Callable[[Callable[[Inputs], Output]], Callable[[Inputs], Output]]:
    """Turn a forward pass into one that also takes the gradients to `leaves`, given the inputs named `upstream`.

    The run returns (outputs, gradients). Upstream gradients are inputs, so that no loss of either side is timed.
    """
    leaf_names, upstream_names = leaves.split(), upstream.split()

    def wrap(forward: Callable[[Inputs], Output]) -> Callable[[Inputs], Output]:
        def run(inputs: Inputs) -> Output:
            outputs = forward(inputs)
            gradients = torch.autograd.grad(
                outputs,
                [getattr(inputs, name) for name in leaf_names],
                [getattr(inputs, name) for name in upstream_names],
            )
            return outputs, gradients

        return run

    return wrap
