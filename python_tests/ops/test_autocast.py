"""Autocast: an op computes in the dtype that it is given and never casts; dtypes that differ are an error.

Eager code under autocast mixes dtypes as torch promotes them. Ours would hide a copy of a tensor in a kernel made to
save one, so the message names the argument and its user writes the cast.
"""

import re

import pytest
import torch
from cases import CASES
from torch import Tensor, nn

import dgmkern

LOW = pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:])
EACH = pytest.mark.parametrize("case", CASES, ids=str)
SHAPE = (4, 6, 5, 2)


def made(case, dtype) -> list[Tensor]:
    shape = next(s for s in (SHAPE, (4, 6)) if case.fits(s))
    return case.make(shape, dtype)


def both_ways(case, inputs, autocast: torch.dtype | None, everywhere: bool) -> list[Tensor]:
    """Outputs and gradients; `everywhere`: backward runs under autocast too, which torch advises against."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    how = {"seed": 3} if case.draws else {}
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        outputs = case.call(*leaves, **how)
    generator = torch.Generator().manual_seed(3)
    cotangents = [torch.randn(o.shape, generator=generator).to(o.dtype) for o in outputs]
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=everywhere):
        grads = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True, materialize_grads=True)
    return [*outputs, *grads]


@EACH
@LOW
@pytest.mark.parametrize("everywhere", [False, True], ids=["forward", "forward and backward"])
@pytest.mark.parametrize("own", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:])
def test_results_and_gradients_are_those_without_autocast(case, low, everywhere, own):
    inputs = made(case, own)
    expected = both_ways(case, inputs, None, False)
    for a, b in zip(both_ways(case, inputs, low, everywhere), expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@EACH
@LOW
@pytest.mark.parametrize("autocast", [False, True])
def test_an_input_of_another_dtype_is_named_under_autocast_as_without_it(case, low, autocast):
    if not case.same_dtype:
        pytest.skip("takes inputs of differing dtypes")
    wide = made(case, torch.float32)
    for i in range(1, len(wide)):
        mixed = [*wide[:i], wide[i].to(low), *wide[i + 1 :]]
        with torch.autocast("cpu", low, enabled=autocast), pytest.raises(TypeError) as raised:
            case.call(*mixed, **({"seed": 3} if case.draws else {}))
        said = re.fullmatch(r"(\w+): expected the dtype (\S+) of (\w+)(?:, or integers)?, got (\S+)", str(raised.value))
        assert said, raised.value
        assert said[1] != said[3]
        assert {said[2], said[4]} == {"torch.float32", str(low)}


A, B = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bfloat16)
S, T = dgmkern.DiffusionSchedule.linear(100), torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: dgmkern.gaussian_rsample(A, B), "logvar"),
        (lambda: dgmkern.gaussian_rsample(B, A), "logvar"),
        (lambda: dgmkern.gaussian_rsample(A, A, noise=B), "noise"),
        (lambda: dgmkern.gaussian_kl(A, B), "logvar"),
        (lambda: dgmkern.gaussian_kl(A, A, B, A), "mu_p"),
        (lambda: dgmkern.gaussian_kl(A, A, A, B), "logvar_p"),
        (lambda: dgmkern.gaussian_rsample_kl(A, B), "logvar"),
        (lambda: dgmkern.q_sample(A, T, S, noise=B), "noise"),
        (lambda: dgmkern.p_sample(B, A, T, S), "model_out"),
        (lambda: dgmkern.p_sample(A, A, T, S, noise=B), "noise"),
        (lambda: dgmkern.ddim_step(B, A, T, 0, S), "model_out"),
        (lambda: dgmkern.dpm_solver_step(A, A, T, 0, S, x0_last=B, t_last=9), "x0_last"),
    ],
)
def test_the_argument_whose_dtype_differs_is_named(call, named):
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match=rf"^{named}: expected the dtype"):
        call()


def encoder_grads(autocast: bool) -> list[Tensor]:
    """A VAE's encoder, whose layers autocast runs in bf16, with its casts written out where autocast is off."""
    torch.manual_seed(1)
    layer, x = nn.Linear(5, 8), torch.randn(3, 5)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if autocast:
            hidden = layer(x)
        else:
            hidden = nn.functional.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16())
        mu, logvar = hidden.chunk(2, 1)
        z, kl = dgmkern.gaussian_rsample_kl(mu, logvar, seed=2)
    assert z.dtype == torch.bfloat16
    assert kl.dtype == torch.float32
    return [z, kl, *torch.autograd.grad(z.float().square().sum() + kl.sum(), layer.parameters())]


def test_a_network_under_autocast_trains_as_with_its_casts_written_out():
    for a, b in zip(encoder_grads(autocast=True), encoder_grads(autocast=False), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
