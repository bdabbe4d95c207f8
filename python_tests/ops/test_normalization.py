"""What is particular to group_norm_silu: peers, offsets, constant groups, parameters' dtypes, threads."""

import pytest
import torch
import torch.nn.functional as F
from instruction_sets import EACH_LEVEL, run_on

import dgmkern

OPS = torch.ops.dgmkern
LAST = torch.channels_last


def made(shape, dtype=torch.float32, *, seed=0, offset=0.0, std=1.0):
    """x, grad, weight, bias, scale, shift in `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    n, c = shape[:2]

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    x = normal(*shape) * std + offset
    return [t.to(dtype) for t in (x, normal(*shape), normal(c), normal(c), normal(n, c), normal(n, c))]


def exact(x, grad, weight, bias, scale, shift, groups, eps=1e-5):
    """y and the gradients in fp64, by the definition."""
    leaves = [None if t is None else t.detach().double().requires_grad_() for t in (x, weight, bias, scale, shift)]
    x, weight, bias, scale, shift = leaves
    grouped = x.reshape(x.shape[0], groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    h = (centred / (centred.square().mean(2, keepdim=True) + eps).sqrt()).reshape(x.shape[0], x.shape[1], -1)
    if weight is not None:
        h = h * weight[:, None]
    if bias is not None:
        h = h + bias[:, None]
    if scale is not None:
        h = h * (1 + scale[:, :, None])
    if shift is not None:
        h = h + shift[:, :, None]
    y = (h / (1 + torch.exp(-h))).reshape(x.shape)
    given = [leaf for leaf in leaves if leaf is not None]
    return y.detach(), torch.autograd.grad(y, given, grad.double())


def ours(x, grad, weight, bias, scale, shift, groups, eps=1e-5):
    leaves = [None if t is None else t.detach().requires_grad_() for t in (x, weight, bias, scale, shift)]
    x, weight, bias, scale, shift = leaves
    y = dgmkern.group_norm_silu(x, groups, weight, bias, scale=scale, shift=shift, eps=eps)
    return y.detach(), torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], grad)


def eager(x, grad, weight, bias, groups):
    x, weight, bias = (t.detach().requires_grad_() for t in (x, weight, bias))
    y = F.silu(F.group_norm(x, groups, weight, bias))
    return y.detach(), torch.autograd.grad(y, (x, weight, bias), grad)


def largest(x):
    return x.double().abs().max().item()


SHAPES = [
    ((3, 6, 5, 7), 3),
    ((2, 64, 28, 28), 8),
    ((2, 3, 40, 41), 1),
    ((1, 1000, 3, 3), 50),
    ((2, 1030, 2, 3), 103),
    ((5, 12), 4),
    ((2, 4, 9001), 2),
    ((1, 2, 200, 210), 1),
    ((2, 6, 3, 4, 5), 2),
    ((3, 20, 4, 4), 20),
]


@pytest.mark.parametrize(("shape", "groups"), SHAPES, ids=str)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("given", ["all", "none", "norm", "shift"])
def test_values_and_gradients_are_the_definition_in_fp64(shape, groups, last, given):
    x, grad, *parameters = made(shape, torch.float64, offset=0.5, std=1.5)
    if last:
        if len(shape) < 4:
            pytest.skip("no channels_last")
        x = x.contiguous(memory_format=LAST if len(shape) == 4 else torch.channels_last_3d)
    keep = {"all": (1, 1, 1, 1), "none": (0, 0, 0, 0), "norm": (1, 1, 0, 0), "shift": (0, 0, 0, 1)}[given]
    parameters = [p if k else None for p, k in zip(parameters, keep, strict=True)]
    y, grads = ours(x, grad, *parameters, groups)
    want, want_grads = exact(x, grad, *parameters, groups)
    assert y.stride() == x.stride()
    for a, b in zip((y, *grads), (want, *want_grads), strict=True):
        assert a.shape == b.shape
        assert largest(a - b) <= 1e-13 * largest(b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("groups", [4, 8, 32])
def test_errors_against_eagers_on_images(dtype, last, groups):
    x, grad, weight, bias, *_ = made((4, 64, 28, 28), dtype)
    if last:
        x, grad = (t.contiguous(memory_format=LAST) for t in (x, grad))
    y, grads = ours(x, grad, weight, bias, None, None, groups)
    eager_y, eager_grads = eager(x, grad, weight, bias, groups)
    want, want_grads = exact(x, grad, weight, bias, None, None, groups)
    slack = torch.finfo(dtype).eps
    for factor, a, e, b in (
        (2, y, eager_y, want),
        *((3, *t) for t in zip(grads, eager_grads, want_grads, strict=True)),
    ):
        assert largest(a - b) <= factor * largest(e - b) + slack * largest(b), factor


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("offset", "std"), [(1000.0, 1.0), (-3e4, 0.5), (1e-3, 1e-6)])
def test_a_large_offset_costs_no_digits(last, offset, std):
    x, grad, weight, bias, scale, shift = made((2, 16, 24, 24), torch.float32, offset=offset, std=std)
    if last:
        x = x.contiguous(memory_format=LAST)
    eps = 1e-5 * std**2
    y, _ = ours(x, grad, weight, bias, scale, shift, 4, eps)
    want, _ = exact(x, grad, weight, bias, scale, shift, 4, eps)
    assert largest(y - want) <= 1e-6 * largest(want)
    _, mean, rstd = OPS.group_norm_silu(x, 4, weight, bias, scale, shift, eps)
    grouped = x.double().reshape(2, 4, -1)
    torch.testing.assert_close(mean.double(), grouped.mean(2), rtol=6e-8, atol=0)
    torch.testing.assert_close(rstd.double(), (grouped.var(2, unbiased=False) + eps).rsqrt(), rtol=2e-7, atol=0)


def test_parts_of_a_group_with_means_far_apart():
    """Chan's formula between parts: one half of an image 1e4 above the other."""
    x, grad, weight, bias, *_ = made((1, 2, 300, 100), torch.float32)
    x[:, :, :150] += 1e4
    for laid in (x, x.contiguous(memory_format=LAST)):
        y, _ = ours(laid, grad, weight, bias, None, None, 1)
        want, _ = exact(laid, grad, weight, bias, None, None, 1)
        assert largest(y - want) <= 1e-6 * largest(want)


@pytest.mark.parametrize("last", [False, True])
def test_constant_groups_give_the_bias(last):
    x = torch.full((2, 6, 7, 5), 0.1).contiguous(memory_format=LAST if last else torch.contiguous_format)
    _, grad, weight, bias, *_ = made((2, 6, 7, 5))
    y, grads = ours(x, grad, weight, bias, None, None, 3)
    torch.testing.assert_close(y, F.silu(bias)[:, None, None].expand(2, 6, 7, 5), rtol=1e-6, atol=1e-6)
    want = exact(x, grad, weight, bias, None, None, 3)[1]
    for a, b in zip(grads, want, strict=True):
        assert largest(a - b) <= 1e-4 * max(1.0, largest(b))


def test_groups_of_one_element():
    x, grad, weight, bias, scale, shift = made((3, 5))
    y, grads = ours(x, grad, weight, bias, scale, shift, 5)
    torch.testing.assert_close(y, F.silu(bias * (1 + scale) + shift))
    assert largest(grads[0]) <= 1e-4 * largest(grad)  # the gradient of a constant: 0 but for rounding times rstd = 316
    assert largest(grads[1]) == 0


@pytest.mark.parametrize("shape", [(0, 6, 4, 4), (0, 6), (2, 6, 0, 3), (2, 6, 0)])
def test_nothing_in_nothing_out(shape):
    x, grad, *parameters = made(shape)
    y, grads = ours(x, grad, *parameters, 3)
    assert y.shape == shape
    assert grads[0].shape == shape
    for g in grads[1:3]:
        assert torch.equal(g, torch.zeros(6))
    for g in grads[3:]:
        assert torch.equal(g, torch.zeros(shape[:2]))
    assert OPS.group_norm_silu(x, 3, *parameters, 1e-5)[1].shape == (shape[0], 3)


def test_spreads_whose_squares_overflow():
    x, grad, weight, bias, *_ = made((2, 8, 9, 9), torch.float32, std=1e25)
    for laid in (x, x.contiguous(memory_format=LAST)):
        y, _ = ours(laid, grad, weight, bias, None, None, 2)
        want, _ = exact(laid, grad, weight, bias, None, None, 2)
        assert largest(y - want) <= 2e-6 * largest(want)


def test_silu_far_from_zero():
    h = torch.cat([torch.linspace(-110, 110, 22001), torch.tensor([1e4, -1e4, 3e38, -3e38])])
    x = torch.zeros(1, len(h))
    y = dgmkern.group_norm_silu(x, 1, None, None, shift=h[None])[0].double()
    want = h.double() * torch.sigmoid(h.double())
    assert (y - want).abs().max() == 0 or ((y - want).abs() <= 3e-7 * want.abs() + 1e-35).all()
    extreme = torch.tensor([[float("inf"), float("-inf"), float("nan"), 0.0]])
    y = dgmkern.group_norm_silu(torch.zeros(1, 4), 1, None, None, shift=extreme)[0]
    torch.testing.assert_close(y, extreme[0] * torch.sigmoid(extreme[0]), equal_nan=True)


def test_a_bad_sample_or_group_spoils_only_itself():
    for value in (float("nan"), float("inf")):
        for layout in (torch.contiguous_format, LAST):
            x, grad, *parameters = made((2, 6, 5, 5))
            good = ours(x.contiguous(memory_format=layout), grad, *parameters, 3)[0]
            x[1, 2, 3, 4] = value
            y = ours(x.contiguous(memory_format=layout), grad, *parameters, 3)[0]
            assert y[1, 2:4].isnan().all()
            assert torch.equal(y[0], good[0])
            assert torch.equal(y[1, :2], good[1, :2])
            assert torch.equal(y[1, 4:], good[1, 4:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("of", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_parameters_keep_their_dtype(dtype, of):
    x, grad, *_ = made((2, 6, 5, 5), dtype)
    parameters = made((2, 6, 5, 5), of)[2:]
    y, grads = ours(x, grad, *parameters, 3)
    want, want_grads = exact(x, grad, *parameters, 3)
    assert y.dtype == grads[0].dtype == dtype
    assert [g.dtype for g in grads[1:]] == [of] * 4
    for a, b in zip((y, *grads), (want, *want_grads), strict=True):
        assert largest(a - b) <= (torch.finfo(a.dtype).eps + 1e-6) * largest(b)


def test_scale_and_shift_may_be_halves_of_one_tensor():
    x, grad, weight, bias, *_ = made((3, 6, 4, 4))
    both = torch.randn(3, 12, requires_grad=True)
    scale, shift = both.chunk(2, dim=1)
    y = dgmkern.group_norm_silu(x, 2, weight[::1], bias, scale=scale, shift=shift)
    want = dgmkern.group_norm_silu(x, 2, weight, bias, scale=scale.contiguous(), shift=shift.contiguous())
    assert torch.equal(y, want)
    (got,) = torch.autograd.grad(y, both, grad)
    _, grads = exact(x, grad, weight, bias, scale, shift, 2)
    torch.testing.assert_close(got.double(), torch.cat(grads[3:], 1), rtol=1e-5, atol=1e-5)
    wide = torch.randn(6, 5)[:, 2]  # [C], stride 5
    assert torch.equal(
        dgmkern.group_norm_silu(x, 2, wide, wide), dgmkern.group_norm_silu(x, 2, wide.clone(), wide.clone())
    )


@pytest.mark.parametrize("shape", [(1, 32, 64, 64), (3, 8, 100, 90), (40, 16, 6, 6), (1, 64, 40, 40, 3)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_for_any_thread_count(shape, last, dtype):
    x, grad, *parameters = made(shape, dtype)
    if last:
        x = x.contiguous(memory_format=LAST if len(shape) == 4 else torch.channels_last_3d)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        y, grads = ours(x, grad, *parameters, 4)
        results.append((y, *grads))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_units_too_large_to_keep():
    """Over 2^18 elements of bf16, backward makes h a second time."""
    x, grad, weight, bias, *_ = made((1, 8, 200, 200), torch.bfloat16)
    for layout in (torch.contiguous_format, LAST):
        y, grads = ours(x.contiguous(memory_format=layout), grad, weight, bias, None, None, 1)
        want, want_grads = exact(x, grad, weight, bias, None, None, 1)
        for a, b in zip((y, *grads), (want, *want_grads), strict=True):
            assert largest(a - b) <= 0.5 * torch.finfo(torch.bfloat16).eps * largest(b)


def test_only_x_and_the_groups_moments_are_kept_for_backward():
    saved = []
    x, _, weight, bias, *_ = made((4, 8, 10, 10))
    x.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        dgmkern.group_norm_silu(x, 4, weight, bias)
    assert {t.data_ptr() for t in saved if t.numel() > 16} == {x.data_ptr()}


def test_moments_of_the_raw_op_are_differentiable():
    x, _, weight, bias, *_ = made((2, 6, 4, 3), torch.float64)

    def function(x):
        y, mean, rstd = OPS.group_norm_silu(x, 3, weight, bias, None, None, 1e-5)
        return y, mean, rstd

    def moments(x):
        return OPS.group_norm_silu(x, 3, weight, bias, None, None, 1e-5)[1:]

    assert torch.autograd.gradcheck(function, x.requires_grad_())
    assert torch.autograd.gradgradcheck(function, x)
    assert torch.autograd.gradgradcheck(moments, x)


@pytest.mark.parametrize("last", [False, True])
def test_gradcheck_of_every_argument_on_images(last):
    x, _, *parameters = made((2, 4, 2, 3), torch.float64)
    if last:
        x = x.contiguous(memory_format=LAST)
    args = [t.requires_grad_() for t in (x, *parameters)]

    def function(x, weight, bias, scale, shift):
        return dgmkern.group_norm_silu(x, 2, weight, bias, scale=scale, shift=shift)

    assert torch.autograd.gradcheck(function, args)
    assert torch.autograd.gradgradcheck(function, args)


@EACH_LEVEL
def test_every_instruction_set_is_accurate(level):
    code = """
import torch, dgmkern
from torch.nn import functional as F
torch.manual_seed(0)

def fused(x, weight, bias, scale, shift):
    return dgmkern.group_norm_silu(x, groups, weight, bias, scale=scale, shift=shift)

def eager(x, weight, bias, scale, shift):
    return F.silu(F.group_norm(x, groups, weight, bias) * (1 + scale[..., None, None]) + shift[..., None, None])

def results(function, grad, *x):
    x = [t.detach().requires_grad_() for t in x]
    y = function(*x)
    return [y.detach(), *torch.autograd.grad(y, x, grad)]

for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for layout in (torch.contiguous_format, torch.channels_last):
        for c, groups in ((64, 8), (6, 3), (700, 7)):
            x, grad = (torch.randn(2, c, 13, 11).to(dtype).contiguous(memory_format=layout) * 2 for _ in range(2))
            parameters = [torch.randn(s) for s in ((c,), (c,), (2, c), (2, c))]
            got = results(fused, grad, x, *parameters)
            plain = results(eager, *(t.float() for t in (grad, x, *parameters)))
            exact = results(eager, *(t.double() for t in (grad, x, *parameters)))
            for i, (a, b, c) in enumerate(zip(got, plain, exact)):
                error, allowed = ((d - c).abs().max() / c.abs().max() for d in (a.double(), b.double()))
                factor = 3 if i else 2
                assert error <= torch.finfo(a.dtype).eps + factor * allowed, (dtype, layout, c.shape, i, error, allowed)
"""
    run_on(level, code)
