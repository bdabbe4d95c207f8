"""What is particular to the Gaussian ops: closed forms, posterior collapse, raw ops."""

import math

import mpmath
import pytest
import torch
from instruction_sets import EACH_LEVEL, run_on
from raw_ops import LAYOUTS, opcheck_in_layout
from torch.distributions import Normal, kl_divergence

import dgmkern

OPS = torch.ops.dgmkern
MU, LOGVAR = torch.randn(3, 4), torch.randn(3, 4)
SEED = torch.tensor([7])


def exact_kl(mu: float, logvar: float) -> float:
    mpmath.mp.dps = 40
    m, v = mpmath.mpf(mu), mpmath.mpf(logvar)
    return float((m**2 + mpmath.expm1(v) - v) / 2)


@pytest.mark.parametrize("scale", [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.99, 1.01, 3.0, 20.0])
def test_kl_keeps_its_digits_into_posterior_collapse(scale):
    generator = torch.Generator().manual_seed(1)
    mu, logvar = torch.randn(2, 300, generator=generator) * scale
    got = dgmkern.gaussian_kl(mu, logvar)
    worst = max(abs(g / exact_kl(m, v) - 1) for g, m, v in zip(got.tolist(), mu.tolist(), logvar.tolist(), strict=True))
    assert worst < 1e-6
    sums = dgmkern.gaussian_kl(mu.view(30, 10), logvar.view(30, 10), reduction="sample").tolist()
    exact = [exact_kl(m, v) for m, v in zip(mu.tolist(), logvar.tolist(), strict=True)]
    assert all(abs(got / math.fsum(exact[10 * i : 10 * i + 10]) - 1) < 1e-6 for i, got in enumerate(sums))
    zero_mean = dgmkern.gaussian_kl(torch.zeros(300), logvar).tolist()
    assert max(abs(g / exact_kl(0.0, v) - 1) for g, v in zip(zero_mean, logvar.tolist(), strict=True)) < 1e-6


def test_kl_gradient_keeps_its_digits_into_posterior_collapse():
    logvar = torch.tensor([1e-7, -1e-5, 1e-3, -0.3, 0.9], requires_grad=True)
    dgmkern.gaussian_kl(torch.zeros(5), logvar, reduction="sum").backward()
    torch.testing.assert_close(logvar.grad, (torch.expm1(logvar.detach().double()) / 2).float(), rtol=3e-7, atol=0)


def exact_kl_between(mu, logvar, mu_p, logvar_p) -> tuple[float, list[tuple[float, float]]]:
    """KL, and for each of its gradients the value and the size of its largest term."""
    mpmath.mp.dps = 50
    mu, logvar, mu_p, logvar_p = (mpmath.mpf(x) for x in (mu, logvar, mu_p, logvar_p))
    by_mu = (mu - mu_p) * mpmath.exp(-logvar_p)
    by_logvar, square = mpmath.expm1(logvar - logvar_p) / 2, (mu - mu_p) * by_mu / 2
    kl = square + by_logvar - (logvar - logvar_p) / 2
    grads = [by_mu, by_logvar, -by_mu, -square - by_logvar]
    sizes = [abs(by_mu), abs(by_logvar), abs(by_mu), max(square, abs(by_logvar))]
    return float(kl), [(float(g), float(s)) for g, s in zip(grads, sizes, strict=True)]


@pytest.mark.parametrize("apart", [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.99, 1.01, 3.0, 20.0])
@pytest.mark.parametrize("prior", [0.0, 1.0, 5.0])
def test_kl_between_and_its_gradients_keep_their_digits_where_the_two_are_near_and_far(prior, apart):
    """Down to KL of about 1e-10, and up to differences of logvar of 60, whose rounding alone would cost 4e-6."""
    generator = torch.Generator().manual_seed(1)
    mu_p, logvar_p = torch.randn(2, 200, generator=generator) * prior
    mu = mu_p + torch.randn(200, generator=generator) * apart
    logvar = logvar_p + torch.randn(200, generator=generator) * apart
    x = [t.clone().requires_grad_() for t in (mu, logvar, mu_p, logvar_p)]
    kl = dgmkern.gaussian_kl(*x)
    sums = dgmkern.gaussian_kl(*[t.detach().view(20, 10) for t in x], reduction="sample").tolist()
    grads = torch.autograd.grad(kl.sum(), x)
    exact = [exact_kl_between(*row) for row in zip(*(t.tolist() for t in x), strict=True)]
    assert all(abs(got - want) <= 1e-6 * want for got, (want, _) in zip(kl.tolist(), exact, strict=True))
    for i, got in enumerate(sums):
        want = math.fsum(want for want, _ in exact[10 * i : 10 * i + 10])
        assert abs(got - want) <= 1e-6 * want
    for i, grad in enumerate(grads):
        assert all(
            abs(got - want[i][0]) <= 1e-6 * want[i][1] for got, (_, want) in zip(grad.tolist(), exact, strict=True)
        )


@pytest.mark.parametrize("reduction", ["none", "sample", "sum", "mean"])
def test_kl_is_torch_distributions_kl(reduction):
    mu, logvar, mu_p, logvar_p = torch.randn(4, 6, 5, dtype=torch.float64)
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(mu_p, (logvar_p / 2).exp()))
    standard = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    reduce = {"none": lambda x: x, "sample": lambda x: x.sum(1), "sum": torch.sum, "mean": torch.mean}[reduction]
    torch.testing.assert_close(
        dgmkern.gaussian_kl(mu, logvar, mu_p, logvar_p, reduction=reduction), reduce(expected), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        dgmkern.gaussian_kl(mu, logvar, reduction=reduction), reduce(standard), rtol=1e-12, atol=1e-12
    )


def test_kl_of_a_distribution_from_itself_is_exactly_zero():
    assert (dgmkern.gaussian_kl(MU, LOGVAR, MU, LOGVAR) == 0).all()
    assert (dgmkern.gaussian_kl(torch.zeros(9), torch.zeros(9)) == 0).all()


def test_samples_have_the_mean_and_variance_asked_for():
    mu, logvar = torch.full((400_000,), 2.0), torch.full((400_000,), -1.0)
    z = dgmkern.gaussian_rsample(mu, logvar, seed=3).double()
    assert abs(z.mean().item() - 2) < 5 * (0.6065 / 400_000**0.5)
    assert abs(z.var().item() / 0.36788 - 1) < 5 * (2 / 400_000) ** 0.5


def test_one_pass_equals_its_two_halves():
    z, kl = dgmkern.gaussian_rsample_kl(MU, LOGVAR, seed=SEED)
    assert torch.equal(z, dgmkern.gaussian_rsample(MU, LOGVAR, seed=SEED))
    assert torch.equal(kl, dgmkern.gaussian_kl(MU, LOGVAR, reduction="sample"))


@pytest.mark.parametrize("used", ["z", "kl", "both", "neither"])
def test_one_pass_backward_of_either_output(used):
    mu, logvar = MU.clone().requires_grad_(), LOGVAR.clone().requires_grad_()
    z, kl = dgmkern.gaussian_rsample_kl(mu, logvar, seed=SEED)
    noise = dgmkern.normal((3, 4), SEED)
    m, v = MU.clone().requires_grad_(), LOGVAR.clone().requires_grad_()
    z_e, kl_e = m + torch.exp(v / 2) * noise, (-0.5 * (1 + v - m**2 - v.exp())).sum(1)
    weight = {"z": (1, 0), "kl": (0, 1), "both": (1, 1)}.get(used)
    if weight is None:
        assert torch.autograd.grad(mu.sum() + 0 * z.detach().sum(), mu)[0].sum() == 12
        return
    for outs, leaves in (((z, kl), (mu, logvar)), ((z_e, kl_e), (m, v))):
        (sum(w * (o**2).sum() for w, o in zip(weight, outs, strict=True) if w)).backward()
        assert all(leaf.grad is not None for leaf in leaves)
    torch.testing.assert_close(mu.grad, m.grad)
    torch.testing.assert_close(logvar.grad, v.grad)


def test_noise_is_not_saved_for_backward():
    saved = []
    mu, logvar = torch.randn(2, 1000, 50).unbind()
    mu, logvar = mu.requires_grad_(), logvar.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        dgmkern.gaussian_rsample_kl(mu, logvar)
    big = {x.data_ptr() for x in saved if x.numel() > 1}
    assert big == {mu.data_ptr(), logvar.data_ptr()}


RAW = [
    (OPS.gaussian_rsample, lambda x: (x(), x(), None, SEED, 0)),
    (OPS.gaussian_rsample, lambda x: (x(), x(), x(), None, 0)),
    (OPS.gaussian_rsample_backward, lambda x: (x(), x(), None, SEED, 0)),
    (OPS.gaussian_rsample_backward, lambda x: (x(), x(), x(), None, 0)),
    (OPS.gaussian_kl, lambda x: (x(), x())),
    (OPS.gaussian_kl_sample, lambda x: (x(), x())),
    (OPS.gaussian_kl_backward, lambda x: (x(), x(), x())),
    (OPS.gaussian_kl_backward, lambda x: (x()[:, 0, 0, 0].detach().clone().requires_grad_(), x(), x())),
    (OPS.gaussian_kl_between, lambda x: (x(), x(), x(), x())),
    (OPS.gaussian_kl_between_sample, lambda x: (x(), x(), x(), x())),
    (OPS.gaussian_kl_between_backward, lambda x: (x(), x(), x(), x(), x())),
    (OPS.gaussian_rsample_kl, lambda x: (x(), x(), None, SEED, 3)),
    (OPS.gaussian_rsample_kl, lambda x: (x(), x(), x(), None, 0)),
    (
        OPS.gaussian_rsample_kl_backward,
        lambda x: (x(), x()[:, 0, 0, 0].detach().clone().requires_grad_(), x(), x(), None, SEED, 3),
    ),
]


@pytest.mark.parametrize(("op", "make"), RAW, ids=lambda v: getattr(v, "__name__", ""))
@LAYOUTS
def test_opcheck(op, make, layout):
    opcheck_in_layout(op, make, (2, 3, 4, 5), layout)


@pytest.mark.parametrize(("op", "make"), RAW, ids=lambda v: getattr(v, "__name__", ""))
def test_raw_ops_refuse_shapes_that_do_not_fit(op, make):
    """What a wrapper would have caught must not read out of bounds."""
    args = list(make(lambda: torch.randn(2, 3, 4, 5)))
    tensors = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor) and a.is_floating_point()]
    for i in tensors:
        spoiled = list(args)
        spoiled[i] = torch.randn(1, 3, 4)
        with pytest.raises(ValueError, match="expected"):
            op(*spoiled)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dgmkern.gaussian_kl(MU, LOGVAR, reduction="batch"), ValueError, "reduction"),
        (lambda: dgmkern.gaussian_kl(MU, LOGVAR, mu_p=MU), ValueError, "logvar_p"),
        (lambda: dgmkern.gaussian_kl(MU, LOGVAR, logvar_p=MU), ValueError, "mu_p"),
        (lambda: dgmkern.gaussian_kl(MU, LOGVAR, MU[:2], LOGVAR), ValueError, r"mu_p.*\(3, 4\).*\(2, 4\)"),
        (lambda: dgmkern.gaussian_kl(torch.tensor(1.0), torch.tensor(1.0)), ValueError, "mu"),
        (lambda: dgmkern.gaussian_rsample(MU, LOGVAR.double()), TypeError, "logvar.*float32.*float64"),
        (lambda: dgmkern.gaussian_rsample(MU.int(), LOGVAR), TypeError, "mu.*int32"),
        (lambda: dgmkern.gaussian_rsample_kl(MU, LOGVAR.t()), ValueError, "logvar"),
        (lambda: OPS.gaussian_rsample(MU, LOGVAR, None, None, 0), ValueError, "seed"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@EACH_LEVEL
def test_exponentials_are_accurate_on_every_instruction_set(level):
    """sigma = e^(logvar / 2) within 1.5 ulp and KL within 1e-6, over the whole range of fp32."""
    code = """
import torch
OPS = torch.ops.dgmkern
import dgmkern
logvar = torch.cat([torch.linspace(-170, 88, 400_001), torch.linspace(-1.5, 1.5, 100_001)])
zero, one = torch.zeros_like(logvar), torch.ones_like(logvar)
sigma = OPS.gaussian_rsample(zero, logvar, one, None, 0).double()
exact = torch.exp(logvar.double() / 2)
ulp = ((sigma - exact).abs() / exact).max().item() * 2**23
kl, exact = OPS.gaussian_kl(zero, logvar).double(), torch.expm1(logvar.double()) - logvar.double()
far = logvar.abs() > 0.1  # closer to 0, where this reference cancels: test_kl_keeps_its_digits
print(ulp, ((2 * kl - exact).abs() / exact)[far].max().item())
"""
    ulp, kl_error = run_on(level, code).split()
    assert float(ulp) < 1.5
    assert float(kl_error) < 1e-6
