"""The upsampling convolution against nearest neighbours and a plain convolution."""

import pytest
import torch
import torch.nn.functional as F

from dgmkern.nn import UpsampleConv2d


def plain(module, x, size):
    return F.conv2d(F.interpolate(x, size=size, mode="nearest"), module.weight, module.bias, padding=1)


@pytest.mark.parametrize("size", [(10, 14), (9, 14), (9, 13), (5, 7), (8, 21)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_value_and_gradients_are_those_of_the_plain_form(size, memory_format):
    torch.manual_seed(0)
    module = UpsampleConv2d(4, 6).double()
    x = torch.randn(3, 4, 5, 7, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    leaves = (x, module.weight, module.bias)
    got, want = module(x, size), plain(module, x, size)
    assert got.shape == (3, 6, *size)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(want)
    for ours, theirs in zip(*(torch.autograd.grad(y, leaves, grad) for y in (got, want)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_second_derivatives():
    torch.manual_seed(0)
    module = UpsampleConv2d(2, 2).double()

    def f(x, weight, bias):
        return torch.func.functional_call(module, {"weight": weight, "bias": bias}, (x, (6, 4)))

    x = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(f, (x, *module.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_at_most_twice_that_of_the_plain_form(dtype):
    torch.manual_seed(0)
    module = UpsampleConv2d(32, 16).to(memory_format=torch.channels_last)
    x = torch.randn(4, 32, 7, 7).to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        got, eager = module(x, (14, 14)), plain(module, x, (14, 14))
        want = plain(module.double(), x.double(), (14, 14))
    assert got.dtype == eager.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert (got - want).square().mean() <= 4 * (eager - want).square().mean()
