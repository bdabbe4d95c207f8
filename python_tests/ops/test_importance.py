"""What is particular to importance weights: log densities of torch.distributions, the bound, splits, both sums."""

import math

import mpmath
import pytest
import torch
from torch.distributions import Normal
from torch.library import opcheck

import dgmkern

OPS = torch.ops.dgmkern
SEED = torch.tensor([7])


def leaves(*shape, dtype=torch.float64, scale=1.0):
    return [(torch.randn(shape, dtype=dtype) * scale).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("shape", [(5, 7), (4, 2), (3,), (2, 3, 4, 5), (2, 1300)])
@pytest.mark.parametrize("k", [1, 4, 50])
def test_it_is_the_difference_of_log_probs_and_so_are_its_gradients(shape, k):
    mu, logvar = leaves(*shape)
    q = Normal(mu.unsqueeze(1), torch.exp(logvar / 2).unsqueeze(1))
    eps = dgmkern.normal((shape[0], k, *shape[1:]), SEED, dtype=torch.float64)
    z_wanted = q.mean + q.stddev * eps
    wanted = (Normal(0.0, 1.0).log_prob(z_wanted) - q.log_prob(z_wanted)).flatten(2).sum(2) if len(shape) > 1 else None
    if wanted is None:
        wanted = Normal(0.0, 1.0).log_prob(z_wanted) - q.log_prob(z_wanted)
    z, ratio = dgmkern.gaussian_log_ratio(mu, logvar, k, seed=SEED)
    torch.testing.assert_close(z, z_wanted, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ratio, wanted, rtol=1e-11, atol=1e-11)
    weights = torch.randn(2, *z.shape, dtype=torch.float64)
    by_ratio = torch.randn(ratio.shape, dtype=torch.float64)
    grads = [
        torch.autograd.grad((weights[0] * z**2).sum() + (by_ratio * ratio).sum(), (mu, logvar), retain_graph=True)
        for z, ratio in ((z, ratio), (z_wanted, wanted))
    ]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-10)


def exact_ratio(mu: float, logvar: float, eps: float) -> float:
    mpmath.mp.dps = 40
    mu, logvar, eps = mpmath.mpf(mu), mpmath.mpf(logvar), mpmath.mpf(eps)
    return float((eps**2 + logvar - (mu + mpmath.exp(logvar / 2) * eps) ** 2) / 2)


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e-2, 0.5, 3.0])
def test_it_keeps_its_digits_into_posterior_collapse(scale):
    """Relative to the two terms that remain, not to the squares: where q is p the log ratio is 0 to all digits."""
    mu, logvar = (x.detach() for x in leaves(300, dtype=torch.float32, scale=scale))
    noise = dgmkern.normal((300, 1), 3)
    _, ratio = dgmkern.gaussian_log_ratio(mu, logvar, 1, noise=noise)
    rows = zip(ratio.flatten().tolist(), mu.tolist(), logvar.tolist(), noise.flatten().tolist(), strict=True)
    for got, m, v, e in rows:
        shift = abs(m) + abs(math.expm1(v / 2) * e)
        terms = abs(v) + shift * (2 * abs(e) + shift)
        assert abs(got - exact_ratio(m, v, e)) < 3e-7 * terms
    _, ratio = dgmkern.gaussian_log_ratio(torch.zeros(9, 30), torch.zeros(9, 30), 50)
    assert (ratio == 0).all()


def test_the_bound_tightens_with_k_and_is_the_evidence_of_a_linear_gaussian():
    """x = z + noise with z ~ N(0, 1), noise ~ N(0, s2): log p(x) is known. IWAE bound, eq. 8."""
    s2 = 0.5
    x = torch.linspace(-2, 2, 5)
    posterior_mean, posterior_var = x / (1 + s2), s2 / (1 + s2)
    mu = (posterior_mean + 0.3).unsqueeze(1)  # a q that is off
    logvar = torch.full_like(mu, math.log(posterior_var) + 0.4)
    evidence = Normal(0.0, math.sqrt(1 + s2)).log_prob(x)

    def bound(k, runs):
        z, ratio = dgmkern.gaussian_log_ratio(mu.repeat(runs, 1), logvar.repeat(runs, 1), k, seed=1)
        log_p_x = Normal(z.squeeze(2), math.sqrt(s2)).log_prob(x.repeat(runs).unsqueeze(1))
        return ((ratio + log_p_x).logsumexp(1) - math.log(k)).view(runs, 5).mean(0)

    one, five, many = bound(1, 20_000), bound(5, 20_000), bound(20_000, 5)
    assert (one < five).all()
    assert (five < evidence).all()
    torch.testing.assert_close(many, evidence, rtol=0, atol=0.01)
    # with the true posterior every weight is p(x)
    exact = dgmkern.gaussian_log_ratio(posterior_mean.unsqueeze(1), torch.full((5, 1), math.log(posterior_var)), 7)
    weights = exact[1] + Normal(exact[0].squeeze(2), math.sqrt(s2)).log_prob(x.unsqueeze(1))
    torch.testing.assert_close(weights, evidence.unsqueeze(1).expand(5, 7), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 20, 700])
def test_the_mean_over_many_samples_is_minus_kl(size):
    mu, logvar = (x.detach() for x in leaves(2, size, dtype=torch.float32, scale=0.3))
    _, ratio = dgmkern.gaussian_log_ratio(mu, logvar, 20_000, seed=2)
    error = ratio.double().std(1) / 20_000**0.5
    assert ((ratio.double().mean(1) + dgmkern.gaussian_kl(mu, logvar, reduction="sample")).abs() < 5 * error).all()


@pytest.mark.parametrize("used", ["z", "ratio"])
def test_backward_of_either_output_alone(used):
    mu, logvar = leaves(6, 5)
    eps = dgmkern.normal((6, 4, 5), SEED, dtype=torch.float64)
    z, ratio = dgmkern.gaussian_log_ratio(mu, logvar, 4, seed=SEED)
    z_wanted = mu.unsqueeze(1) + torch.exp(logvar / 2).unsqueeze(1) * eps
    wanted = (eps**2 + logvar.unsqueeze(1) - z_wanted**2).sum(2) / 2
    pairs = {"z": (z, z_wanted), "ratio": (ratio, wanted)}[used]
    got, expected = (torch.autograd.grad((x**3).sum(), (mu, logvar)) for x in pairs)
    torch.testing.assert_close(got, expected)


def test_gradients_are_summed_over_many_samples_without_losing_digits():
    """fp32 against fp64 at k = 5000: a plain running sum would lose three digits."""
    mu, logvar = (x.detach() for x in leaves(3, 6, dtype=torch.float32))
    grads = []
    for dtype in (torch.float32, torch.float64):
        m, v = mu.to(dtype).requires_grad_(), logvar.to(dtype).requires_grad_()
        z, ratio = dgmkern.gaussian_log_ratio(m, v, 5000, seed=4)
        grads.append(torch.autograd.grad(z.sum() + ratio.sum(), (m, v)))
    torch.testing.assert_close([g.double() for g in grads[0]], list(grads[1]), rtol=1e-6, atol=2e-4)


@pytest.mark.parametrize("shape", [(1, 40), (7, 2), (2, 5000)])
def test_gradients_do_not_depend_on_the_thread_count(shape):
    grads = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        mu, logvar = leaves(*shape, dtype=torch.float32)
        z, ratio = dgmkern.gaussian_log_ratio(mu, logvar, 500, seed=4)
        grads.append(torch.autograd.grad((z**2).sum() + (ratio**2).sum(), (mu, logvar)))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_noise_is_not_saved_for_backward():
    saved = []
    mu, logvar = leaves(100, 50)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        dgmkern.gaussian_log_ratio(mu, logvar, 8)
    assert {x.data_ptr() for x in saved if x.numel() > 1} == {mu.data_ptr(), logvar.data_ptr()}


def x():
    return torch.randn(2, 3, 4).requires_grad_()


def zs():
    return torch.randn(2, 5, 3, 4).requires_grad_()


def ratios():
    return torch.randn(2, 5).requires_grad_()


RAW = [
    (OPS.gaussian_log_ratio, lambda: (x(), x(), 5, None, SEED, 3)),
    (OPS.gaussian_log_ratio, lambda: (x(), x(), 5, zs(), None, 0)),
    (OPS.gaussian_log_ratio_backward, lambda: (zs(), ratios(), x(), x(), 5, None, SEED, 3)),
    (OPS.gaussian_log_ratio_backward, lambda: (zs(), ratios(), x(), x(), 5, zs(), None, 0)),
    (OPS.gaussian_log_ratio_backward, lambda: (None, ratios(), x(), x(), 5, None, SEED, 3)),
    (OPS.gaussian_log_ratio_backward, lambda: (zs(), None, x(), x(), 5, None, SEED, 3)),
]


@pytest.mark.parametrize(("op", "make"), RAW, ids=lambda v: getattr(v, "__name__", ""))
def test_opcheck(op, make):
    opcheck(op.default, make())


@pytest.mark.parametrize(("op", "make"), RAW, ids=lambda v: getattr(v, "__name__", ""))
def test_raw_ops_refuse_shapes_that_do_not_fit(op, make):
    """What a wrapper would have caught must not read out of bounds."""
    args = list(make())
    for i, arg in enumerate(args):
        if isinstance(arg, torch.Tensor) and arg.is_floating_point():
            with pytest.raises(ValueError, match="expected"):
                op(*args[:i], torch.randn(1, 3, 4), *args[i + 1 :])
        elif isinstance(arg, int) and arg == 5:
            for k in (0, -1):
                with pytest.raises(ValueError, match="expected"):
                    op(*args[:i], k, *args[i + 1 :])


@pytest.mark.parametrize(
    ("k", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError)]
)
def test_bad_numbers_of_samples_are_named(k, error):
    with pytest.raises(error, match="k: expected"):
        dgmkern.gaussian_log_ratio(torch.zeros(3, 4), torch.zeros(3, 4), k)
