"""What is particular to the likelihoods: closed forms, peers, far tails and scales, extremes."""

import math

import mpmath
import pytest
import torch
from torch.distributions import Bernoulli, Normal
from torch.library import opcheck
from torch.nn import functional as F

import dgmkern
from dgmkern.reference.likelihood import discretized_gaussian, discretized_gaussian_grad

OPS = torch.ops.dgmkern
FP = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=lambda d: str(d)[6:])
INF, NAN = math.inf, math.nan


def normals(*shape, seed=1, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_bernoulli_is_torch_distributions():
    logits, x = 4 * normals(5, 40, seed=1, dtype=torch.float64), (normals(5, 40, seed=2) > 0).double()
    torch.testing.assert_close(dgmkern.bernoulli_nll(logits, x), -Bernoulli(logits=logits).log_prob(x).sum(1))


@pytest.mark.parametrize("size", [1, 5, 127, 128, 129, 272, 512, 784, 3000, 9000])
def test_bernoulli_is_binary_cross_entropy_of_any_size(size):
    logits, x = 3 * normals(4, size, seed=1), torch.sigmoid(normals(4, size, seed=2))
    exact = F.binary_cross_entropy_with_logits(logits.double(), x.double(), reduction="none").sum(1)
    torch.testing.assert_close(dgmkern.bernoulli_nll(logits, x).double(), exact, rtol=4e-7, atol=0)


def test_gaussian_is_torch_distributions():
    x, mean, logvar = normals(3, 5, 40, dtype=torch.float64).unbind()
    expected = -Normal(mean, (logvar / 2).exp()).log_prob(x).sum(1)
    torch.testing.assert_close(dgmkern.gaussian_nll(x, mean, logvar), expected)


def test_gaussian_is_torch_gaussian_nll_loss():
    x, mean, logvar = normals(3, 5, 40).unbind()
    expected = F.gaussian_nll_loss(mean, x, logvar.exp(), full=True, reduction="none").sum(1)
    torch.testing.assert_close(dgmkern.gaussian_nll(x, mean, logvar), expected)


def test_gradients_are_the_closed_forms():
    weight = normals(4, dtype=torch.float64)
    x, mean, logvar = (t.requires_grad_() for t in normals(3, 4, 9, dtype=torch.float64).unbind())
    got = torch.autograd.grad(dgmkern.gaussian_nll(x, mean, logvar), (x, mean, logvar), weight)
    scaled = (x - mean) * (-logvar).exp()
    for a, b in zip(got, (scaled, -scaled, (1 - (x - mean) * scaled) / 2), strict=True):
        torch.testing.assert_close(a, (weight[:, None] * b).detach())
    got = torch.autograd.grad(dgmkern.bernoulli_nll(mean, x), (mean, x), weight)
    for a, b in zip(got, (torch.sigmoid(mean) - x, -mean), strict=True):
        torch.testing.assert_close(a, (weight[:, None] * b).detach())


def test_a_shared_logvar_goes_in_expanded():
    x, mean = normals(2, 6, 3, 4, 5, dtype=torch.float64).unbind()
    for shape in ((), (3, 1, 1), (6, 1, 1, 1)):
        logvar = torch.full(shape, -0.7, dtype=torch.float64, requires_grad=True)
        (got,) = torch.autograd.grad(dgmkern.gaussian_nll(x, mean, logvar.expand_as(x)).sum(), logvar)
        each = (1 - (x - mean) ** 2 * math.exp(0.7)) / 2
        torch.testing.assert_close(got, each.sum_to_size(shape))


def test_a_sure_and_right_bernoulli_keeps_its_digits():
    logits = torch.tensor([[5.0, 20.0, 60.0, 85.0]]).repeat(1, 64).requires_grad_()
    for sign, x in ((1, 1.0), (-1, 0.0)):
        nll = dgmkern.bernoulli_nll(sign * logits, torch.full_like(logits, x))
        exact = torch.log1p(torch.exp(-logits.double())).sum().item()
        assert nll.item() == pytest.approx(exact, rel=3e-7)
        for one in (5.0, 20.0, 60.0, 85.0):
            each = torch.full((1, 300), one)
            nll = dgmkern.bernoulli_nll(sign * each, torch.full_like(each, x)).item()
            assert nll == pytest.approx(300 * math.log1p(math.exp(-one)), rel=1e-6)
        (grad,) = torch.autograd.grad(dgmkern.bernoulli_nll(logits, torch.ones_like(logits)).sum(), logits)
        torch.testing.assert_close(grad.double(), -torch.sigmoid(-logits.detach().double()), rtol=4e-7, atol=0)


@FP
@pytest.mark.parametrize(
    ("logit", "x", "nll", "grad"),
    [
        (1e30, 0.0, 1e30, 1.0),
        (1e30, 1.0, 0.0, 0.0),
        (-1e30, 0.0, 0.0, 0.0),
        (-1e30, 1.0, 1e30, -1.0),
        (1e30, 0.25, 0.75e30, 0.75),
        (INF, 0.0, INF, 1.0),
        (INF, 0.5, INF, 0.5),
        (-INF, 0.5, INF, -0.5),
        (INF, 1.0, NAN, 0.0),
        (NAN, 0.5, NAN, NAN),
        (0.0, NAN, NAN, NAN),
    ],
)
@pytest.mark.parametrize("place", [0, 150])
def test_extreme_logits(dtype, logit, x, nll, grad, place):
    logits, targets = torch.zeros(3, 200, dtype=dtype), torch.full((3, 200), 0.5, dtype=dtype)
    logits[1, place], targets[1, place] = logit, x
    logits.requires_grad_()
    out = dgmkern.bernoulli_nll(logits, targets)
    (got,) = torch.autograd.grad(out.sum(), logits)
    rest = torch.tensor(199 * math.log(2), dtype=dtype)
    torch.testing.assert_close(out[1], rest + torch.tensor(nll, dtype=dtype), equal_nan=True)
    torch.testing.assert_close(got[1, place], torch.tensor(grad, dtype=dtype), equal_nan=True)
    assert out[[0, 2]].isfinite().all()
    assert (got[[0, 2]] == 0).all()


def exact_discretized(x: float, mean: float, log_scale: float):
    """(nll, d/dmean, d/dlog_scale, the bin's near end in scales) in 60 digits."""
    mpmath.mp.dps = 60
    m, s, delta = mpmath.mpf(mean), mpmath.exp(mpmath.mpf(log_scale)), 1 / mpmath.mpf(255)
    density = mpmath.npdf
    outermost = abs(x) > 0.999
    sign = -1 if (x if outermost else x - mean) < 0 else 1
    a, b = (sign * (x - m) - delta) / s, (sign * (x - m) + delta) / s
    beyond = mpmath.mpf(0) if outermost else mpmath.erfc(b / mpmath.sqrt(2)) / 2
    by_b = mpmath.mpf(0) if outermost else density(b)
    if a > 0:
        p = mpmath.erfc(a / mpmath.sqrt(2)) / 2 - beyond
        nll = -mpmath.log(p)
    else:
        missing = mpmath.erfc(-a / mpmath.sqrt(2)) / 2 + beyond
        p, nll = 1 - missing, -mpmath.log1p(-missing)
    return nll, -sign * (density(a) - by_b) / p / s, (b * by_b - a * density(a)) / p, float(a)


def bins(n: int, dtype, seed=3):
    """n pixels with log_scale in [-12, 3] and |x - mean| up to 2: anywhere, near an end of the bin, near its middle."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n,), generator=generator).double() / 255 * 2 - 1
    x[: n // 10] = x[: n // 10].sign()
    log_scale = torch.rand(n, generator=generator, dtype=torch.float64) * 15 - 12
    z, flat = (torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(2))
    distances = torch.stack(
        [flat.clamp(-2, 2), z * log_scale.exp() * 3, z.sign() / 255 + flat * log_scale.exp(), z / 255]
    )
    which = torch.randint(0, 4, (n,), generator=generator)
    mean = x - distances.gather(0, which[None])[0].clamp(-2, 2)
    return [t.to(dtype) for t in (x, mean, log_scale)]


@FP
@pytest.mark.parametrize("how", ["kernel", "reference"])
def test_discretized_gaussian_keeps_its_digits_everywhere(dtype, how):
    """Relative error of the nll below 1e-6 (2e-15), however small the scale and far the tail; where the bin holds
    nearly all the mass (a < -1), nll = Q(-a) + ..., which multiplies the error of 1 / s by a^2."""
    x, mean, log_scale = bins(4000, dtype)
    exact = [exact_discretized(*each) for each in zip(x.tolist(), mean.tolist(), log_scale.tolist(), strict=True)]
    if how == "kernel":
        column = [t[:, None] for t in (x, mean, log_scale)]
        nll = dgmkern.discretized_gaussian_nll(*column)
        dmean, dlog_scale = (d[:, 0] for d in OPS.discretized_gaussian_nll_backward(torch.ones_like(nll), *column))
    else:
        nll, (dmean, dlog_scale) = (
            discretized_gaussian(x, mean, log_scale),
            discretized_gaussian_grad(x, mean, log_scale),
        )
    ulp, smallest = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    for got, i, bound in ((nll, 0, 8), (dmean, 1, 16), (dlog_scale, 2, 16)):
        for value, truth, scale in zip(got.tolist(), exact, log_scale.tolist(), strict=True):
            a = truth[3]
            # gradients pass through 0 inside their range: there the error counts against 1 / s, and 1
            floor = (0, math.exp(-scale), 1)[i] if a > -1 else 0
            wanted = max(abs(truth[i]), floor)
            if min(wanted, truth[0]) > 4 * smallest:
                assert abs(value - truth[i]) <= bound * ulp * wanted * max(1, a * a if a < 0 else 1), (i, truth)


def test_one_number_of_each_regime():
    """Against mpmath to 15 digits: widest, narrow, tail, middle, outermost."""
    for x, mean, log_scale in (
        (0.0, 0.1, 3.0),
        (1 / 255, 0.5, -3.0),
        (1 / 255, 0.5, -9.0),
        (1 / 255, 0.0, -6.0),
        (1.0, 0.9, -4.0),
    ):
        args = [torch.tensor([[v]], dtype=torch.float64) for v in (x, mean, log_scale)]
        expected = float(exact_discretized(x, mean, log_scale)[0])
        assert dgmkern.discretized_gaussian_nll(*args).item() == pytest.approx(expected, rel=1e-14)


def tanh_approximation(x, mean, log_scale):
    """What diffusion code writes: Phi by tanh, probabilities clamped at 1e-12 (eager peer, in the style of IDDPM)."""
    cdf = lambda z: 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))  # noqa: E731
    upper, lower = (cdf((x - mean + side) * torch.exp(-log_scale)) for side in (1 / 255, -1 / 255))
    p = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return -p.clamp(min=1e-12).log()


def test_how_far_the_tanh_approximation_is():
    """Around the mode it agrees to 0.5%, at 4.5 scales it is 8% off, and where p < 1e-12 it is flat: no gradient."""
    x, scale = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), -3.0, dtype=torch.float64)

    def both(scales_away):
        mean = (scales_away * scale.exp()).requires_grad_()
        ours, theirs = dgmkern.discretized_gaussian_nll(x, mean, scale), tanh_approximation(x, mean, scale)
        return (
            ours.item(),
            theirs.item(),
            torch.autograd.grad(ours, mean)[0].item(),
            torch.autograd.grad(theirs, mean)[0].item(),
        )

    for away, low, high in ((0.0, 0, 1e-3), (1.0, 0, 5e-3), (4.5, 0.02, 0.2)):
        ours, theirs, *_ = both(away)
        assert low <= abs(theirs / ours - 1) <= high
    ours, theirs, grad, flat = both(20.0)
    assert theirs == pytest.approx(-math.log(1e-12))
    assert flat == 0
    assert ours == pytest.approx(float(exact_discretized(0.0, 20 * math.exp(-3), -3.0)[0]))
    assert grad == pytest.approx(20 / math.exp(-3), rel=1e-2)


@FP
def test_discretized_gaussian_is_finite_or_infinite_but_never_nan(dtype):
    means = [0.0, 1.0, -1.0, 0.5, 1e10, -1e10, 1e30, INF, -INF]
    scales = [-INF, -1e30, -200.0, -100.0, -40.0, 0.0, 40.0, 80.0]
    x, mean, log_scale = torch.meshgrid(
        *[torch.tensor(v, dtype=dtype) for v in ([0.0, 1.0, -1.0, 0.25, 1 / 255], means, scales)], indexing="ij"
    )
    args = [t.reshape(-1, 1).clone().requires_grad_() for t in (x, mean, log_scale)]
    nll = dgmkern.discretized_gaussian_nll(*args)
    grads = torch.autograd.grad(nll.sum(), args)
    assert not nll.isnan().any()
    assert (nll >= 0).all()
    for grad in grads:
        assert grad[nll.isfinite()].isfinite().all()
        assert not grad.isnan().any()


@FP
def test_discretized_gaussian_propagates_nan(dtype):
    for spoiled in range(3):
        args = [torch.zeros(2, 3, dtype=dtype) for _ in range(3)]
        args[spoiled][1, 1] = NAN
        nll = dgmkern.discretized_gaussian_nll(*args)
        assert nll[0].isfinite()
        assert nll[1].isnan()


@FP
def test_probabilities_of_all_levels_add_up_to_one(dtype):
    levels = (torch.arange(256, dtype=torch.float64) / 255 * 2 - 1).to(dtype)
    for mean in (-1.3, -0.5, 0.0011, 1.0):
        for log_scale in (-9.0, -5.0, -2.0, 1.0):
            args = [torch.full((256, 1), v, dtype=dtype) for v in (mean, log_scale)]
            total = torch.exp(-dgmkern.discretized_gaussian_nll(levels[:, None], *args).double()).sum()
            assert total.item() == pytest.approx(1, abs=2e-5 if dtype == torch.float32 else 1e-12)


def test_reference_element_is_twice_differentiable_without_nan():
    """The torch formula that other ops build on, at the bin's middle and ends and far away."""
    x, mean, log_scale = bins(600, torch.float64)
    mean[:50] = x[:50]
    args = [t.requires_grad_() for t in (x, mean, log_scale)]
    first = torch.autograd.grad(discretized_gaussian(*args).sum(), args, create_graph=True)
    closed = discretized_gaussian_grad(*args)
    for got, expected in zip(first[1:], closed, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    second = torch.autograd.grad(sum(g.sum() for g in first[1:]), args)
    assert all(g.isfinite().all() for g in second)
    inner = [t.detach()[:200].clone().requires_grad_() for t in args]
    keep = (inner[2] > -4) & (inner[0].abs() < 0.99)
    inner = [t.detach()[keep].requires_grad_() for t in inner]
    assert torch.autograd.gradcheck(discretized_gaussian_grad, inner, eps=1e-7, rtol=1e-4, atol=1e-3)


def laid_out(layout):
    t = normals(2, 3, 4, 5)
    if layout == "channels_last":
        t = t.contiguous(memory_format=torch.channels_last)
    elif layout == "permuted":
        t = normals(5, 4, 3, 2).permute(3, 2, 1, 0)
    return t.requires_grad_()


RAW = [
    (OPS.bernoulli_nll, 0, 2),
    (OPS.bernoulli_nll_backward, 1, 2),
    (OPS.gaussian_nll, 0, 3),
    (OPS.gaussian_nll_backward, 1, 3),
    (OPS.discretized_gaussian_nll, 0, 3),
    (OPS.discretized_gaussian_nll_backward, 1, 3),
]
EACH_RAW = pytest.mark.parametrize(("op", "grads", "inputs"), RAW, ids=lambda v: getattr(v, "__name__", ""))


@EACH_RAW
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted"])
def test_opcheck(op, grads, inputs, layout):
    grad = [torch.ones(2, requires_grad=True)] * grads
    opcheck(op.default, (*grad, *[laid_out(layout) for _ in range(inputs)]))


@EACH_RAW
def test_raw_ops_refuse_shapes_that_do_not_fit(op, grads, inputs):
    args = [torch.ones(2)] * grads + [torch.ones(2, 3) for _ in range(inputs)]
    for i in range(len(args)):
        for wrong in (torch.ones(1, 3, 4), args[i].double()):
            with pytest.raises(ValueError, match="expected"):
                op(*args[:i], wrong, *args[i + 1 :])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: dgmkern.bernoulli_nll(x, x[:1]), ValueError, r"x: .*\(2, 3\).*\(1, 3\)"),
        (lambda x: dgmkern.bernoulli_nll(x[0, 0], x), ValueError, "logits"),
        (lambda x: dgmkern.bernoulli_nll(x.long(), x), TypeError, "logits"),
        (lambda x: dgmkern.gaussian_nll(x, x, x.double()), TypeError, "logvar"),
        (lambda x: dgmkern.gaussian_nll(x, 0.0, x), TypeError, "mean"),
        (lambda x: dgmkern.discretized_gaussian_nll(x, x, x.t()), ValueError, "log_scale"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.zeros(2, 3))


def test_samples_without_elements_cost_nothing():
    empty = torch.zeros(3, 0, requires_grad=True)
    for out in (dgmkern.bernoulli_nll(empty, empty), dgmkern.gaussian_nll(empty, empty, empty)):
        assert torch.equal(out, torch.zeros(3))
        assert torch.autograd.grad(out.sum(), empty)[0].shape == (3, 0)
    assert dgmkern.discretized_gaussian_nll(*[torch.zeros(0, 4)] * 3).shape == (0,)
