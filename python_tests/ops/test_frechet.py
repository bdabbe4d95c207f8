"""The Frechet distance between Gaussians: exact where others are not, with a bound, and with finite gradients."""

import mpmath as mp
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import dgmkern
from perf.frechet_inputs import SPECTRA as KNOWN
from perf.frechet_inputs import exact_trace, gaussians

OPS = torch.ops.dgmkern
SPECTRA = ["well", "geometric", "power law", "rank d/2", "dead units"]


def symmetric(x: torch.Tensor) -> torch.Tensor:
    return (x + x.mT) / 2


def covariance(spectrum: str, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    values = torch.linspace(0.5, 2, d, dtype=torch.float64)
    if spectrum == "geometric":
        values = torch.logspace(0, -12, d, dtype=torch.float64)
    elif spectrum == "power law":
        values = torch.arange(1, d + 1, dtype=torch.float64) ** -2
    elif spectrum == "rank d/2":
        values[d // 2 :] = 0
    s = symmetric((q * values) @ q.mT)
    if spectrum == "dead units":
        s[::5] = s[:, ::5] = 0
    return s


@pytest.mark.parametrize("d", [24, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_trace_against_60_digits_and_its_bound(spectrum, d):
    s1, s2 = covariance(spectrum, d, 1), covariance(spectrum, d, 2)
    if spectrum == "rank d/2":  # exact products of 26 bits: the rank is what it says in any arithmetic
        s1, s2 = (x @ x.mT for x in torch.randn(2, d, d // 2, dtype=torch.float64).mul(2**20).round())
    want = exact_trace(s1, s2)
    trace, bound = dgmkern.trace_sqrtm_product(s1, s2, return_bound=True)
    for got in (dgmkern.trace_sqrtm_product(s1, s2), trace):
        error = abs(mp.mpf(got.item()) - want)
        assert error <= 1e-12 * want
        assert error <= bound.item()


@pytest.mark.parametrize("d", [64, 256])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_trace_of_factors_that_are_known(spectrum, d):
    """S = A^T A is formed in fp64; the singular values of A1 A2^T need no S at all."""
    factors = []
    for seed in (1, 2):
        values, vectors = torch.linalg.eigh(covariance(spectrum, d, seed))
        factors.append(values.clamp(min=0).sqrt().where(values > 1e-14, 0).unsqueeze(-1) * vectors.mT)
    want = torch.linalg.svdvals(factors[0] @ factors[1].mT).sum()
    s1, s2 = (symmetric(a.mT @ a) for a in factors)
    trace, bound = dgmkern.trace_sqrtm_product(s1, s2, return_bound=True)
    for got in (dgmkern.trace_sqrtm_product(s1, s2), trace):
        assert abs(got - want) <= 1e-12 * want
        assert abs(got - want) <= bound


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("d", [5, 37, 130])
def test_the_bound_covers_rounding_of_the_covariances(spectrum, d):
    """Errors of the size that factors may have, in directions where square roots are most sensitive to them."""
    s1, s2 = covariance(spectrum, d, 1), covariance(spectrum, d, 2)
    exact, bound = dgmkern.trace_sqrtm_product(s1, s2, return_bound=True)
    vectors = torch.linalg.eigh(s1).eigenvectors
    units = (s1.diagonal() > 0).double()
    for size, count in ((8, 1), (1, d)):
        rounding = size * d * torch.finfo(torch.float64).eps * s1.diagonal().max()
        error = vectors[:, :count] @ vectors[:, :count].mT * rounding * units * units[:, None]
        assert abs(dgmkern.trace_sqrtm_product(symmetric(s1 + error), s2) - exact) <= bound


def test_rows_of_zeros_do_not_loosen_the_bound():
    s1, s2 = covariance("well", 60, 1), covariance("well", 60, 2)
    _, bound = dgmkern.trace_sqrtm_product(s1, s2, return_bound=True)
    padded = [torch.nn.functional.pad(s, (3, 4, 3, 4)) for s in (s1, s2)]
    trace, wider = dgmkern.trace_sqrtm_product(*padded, return_bound=True)
    assert wider < 2 * bound
    assert abs(trace - dgmkern.trace_sqrtm_product(s1, s2)) <= bound


@pytest.mark.parametrize("d", [64, 256])
@pytest.mark.parametrize("spectrum", KNOWN)
def test_trace_that_is_known_exactly(spectrum, d):
    for seed in range(3):
        pair = gaussians(spectrum, d, seed)
        trace, bound = dgmkern.trace_sqrtm_product(pair.sigma1, pair.sigma2, return_bound=True)
        error = abs(mp.mpf(trace.item()) - pair.trace)
        assert error <= bound.item()
        if spectrum != "geometric, opposed":  # whose trace is 1e-5 of that of S, and as sensitive
            assert error <= 1e-12 * pair.trace
        assert trace == dgmkern.trace_sqrtm_product(pair.sigma1, pair.sigma2)


@pytest.mark.parametrize("spectrum", ["well", "geometric", "power law", "rank d/2", "dead units"])
def test_trace_at_the_width_of_inception(spectrum):
    pair = gaussians(spectrum, 2048)
    trace = dgmkern.trace_sqrtm_product(pair.sigma1, pair.sigma2)
    assert abs(mp.mpf(trace.item()) - pair.trace) <= 1e-12 * pair.trace


@pytest.mark.slow
@pytest.mark.parametrize("spectrum", KNOWN)
def test_distance_and_bound_at_the_width_of_inception(spectrum):
    pair = gaussians(spectrum, 2048)
    distance, bound = dgmkern.frechet_distance(*pair[:4], return_bound=True)
    error = abs(mp.mpf(distance.item()) - pair.distance)
    assert error <= bound.item()
    assert error <= 1e-12 * 2 * pair.trace or spectrum == "geometric, opposed"


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_gaussians_have_distance_and_gradient_zero(spectrum, dtype):
    s = covariance(spectrum, 40, 1).to(dtype)
    if dtype == torch.float32:
        s = symmetric(s)
    mu = torch.randn(40, dtype=dtype)
    args = [x.clone().requires_grad_() for x in (mu, s)]
    distance, bound = dgmkern.frechet_distance(*args, mu, s, return_bound=True)
    assert abs(distance) <= 1e-12 * s.double().trace()
    assert abs(distance) <= bound + 1e-14 * s.double().trace()
    for grad in torch.autograd.grad(dgmkern.frechet_distance(*args, mu, s), args):
        assert not grad.any()


def test_fp32_covariances_with_eigenvalues_below_zero_are_projected():
    x = torch.randn(20, 40)
    s1, s2 = (torch.cov(y.mT) for y in (x, x * 1.5 + 1))
    assert torch.linalg.eigvalsh(s1.double())[0] < 0
    got = dgmkern.frechet_distance(torch.zeros(40), s1, torch.zeros(40), s2)
    want = (1.5 - 1) ** 2 * s1.double().trace()
    assert got.dtype == torch.float64
    assert abs(got - want) <= 1e-4 * want


@pytest.mark.parametrize("spectrum", ["well", "equal", "identity"])
def test_gradients(spectrum):
    a, b = (covariance("well", 4, seed) for seed in (1, 1 if spectrum == "equal" else 2))
    if spectrum == "identity":
        a = b = torch.eye(4).double()
    mu1, mu2 = torch.randn(2, 4, dtype=torch.float64)
    args = [x.clone().requires_grad_() for x in (mu1, a, mu2, b)]

    def distance(mu1, s1, mu2, s2):
        return dgmkern.frechet_distance(mu1, symmetric(s1), mu2, symmetric(s2))

    assert gradcheck(distance, args)
    assert gradgradcheck(distance, args)
    both = torch.stack([a, b]).requires_grad_()
    assert gradcheck(lambda s: dgmkern.trace_sqrtm_product(symmetric(s), symmetric(s.flip(0))), both)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_gradients_are_finite_and_concave(spectrum):
    """T is concave: T(S') <= T(S) + <G, S' - S> for every semidefinite S'."""
    s1, s2 = (covariance(spectrum, 15, seed).requires_grad_() for seed in (1, 2))
    trace = dgmkern.trace_sqrtm_product(s1, s2)
    grads = torch.autograd.grad(trace, (s1, s2))
    assert all(g.isfinite().all() and torch.equal(g, g.mT) for g in grads)
    if spectrum in ("well", "power law", "dead units"):  # else a factor of 1e6, or a gradient that is not finite
        for seed in range(3):
            other = covariance(spectrum, 15, 10 + seed)
            line = trace + (grads[0] * (other - s1)).sum()
            assert dgmkern.trace_sqrtm_product(other, s2) <= line + 1e-9 * abs(line)


FEATURES = [(3, 4, 6), (6, 4, 6), (9, 5, 3), (4, 8, 8), (12, 3, 3)]  # N, M, D


@pytest.mark.parametrize(("n", "m", "d"), FEATURES)
def test_features_give_the_distance_of_their_covariances(n, m, d):
    x, y = torch.randn(n, d, dtype=torch.float64), torch.randn(m, d, dtype=torch.float64) * 2 + 1
    got, bound = dgmkern.feature_frechet_distance(x, y, return_bound=True)
    mu1, mu2, s1, s2 = x.mean(0), y.mean(0), torch.cov(x.mT), torch.cov(y.mT)
    want = ((mu1 - mu2) ** 2).sum() + s1.trace() + s2.trace() - 2 * float(exact_trace(s1, s2))
    assert abs(got - want) <= 1e-7  # of covariances formed in fp64, short of rank
    assert bound < 1e-11
    from_factor = dgmkern.feature_frechet_distance(x, (mu2, dgmkern.covariance_factor(s2)))
    torch.testing.assert_close(from_factor, got, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("n", "m", "d"), FEATURES)
def test_gradients_of_features(n, m, d):
    x, y = (torch.randn(k, d, dtype=torch.float64).requires_grad_() for k in (n, m))
    assert gradcheck(dgmkern.feature_frechet_distance, (x, y))
    assert gradgradcheck(dgmkern.feature_frechet_distance, (x, y))
    gaussian = (y.detach().mean(0), dgmkern.covariance_factor(torch.cov(y.detach().mT)))
    assert gradcheck(lambda x: dgmkern.feature_frechet_distance(x, gaussian), x)


@pytest.mark.parametrize("n", [10, 50])
def test_equal_features_have_distance_and_gradient_zero(n):
    x = torch.randn(n, 20, dtype=torch.float64)
    x[:, 3] = 0  # a dead unit
    x = x.requires_grad_()
    distance, bound = dgmkern.feature_frechet_distance(x, x.detach().clone(), return_bound=True)
    assert abs(distance) <= 1e-12 * x.detach().var(0).sum()
    assert abs(distance) <= bound + 1e-14
    assert torch.autograd.grad(distance, x)[0].abs().max() <= 1e-13


def test_shift_and_scale_in_closed_form():
    x = torch.randn(30, 12, dtype=torch.float64)
    distance = dgmkern.feature_frechet_distance(x, 3 * x + 2)
    want = ((2 * x.mean(0) + 2) ** 2).sum() + 4 * x.var(0).sum()
    torch.testing.assert_close(distance, want, rtol=1e-13, atol=0)


def test_batches_and_compilation():
    s1, s2 = (torch.stack([covariance("well", 6, seed + k) for k in range(3)]) for seed in (0, 9))
    mu1, mu2 = torch.randn(2, 3, 6, dtype=torch.float64)
    together = dgmkern.frechet_distance(mu1, s1, mu2, s2)
    assert together.shape == (3,)
    each = torch.stack([dgmkern.frechet_distance(*args) for args in zip(mu1, s1, mu2, s2, strict=True)])
    torch.testing.assert_close(together, each, rtol=0, atol=0)

    def loss(mu, s):
        return dgmkern.frechet_distance(mu, symmetric(s), mu2, s2).sum()

    want = torch.func.grad(loss, (0, 1))(mu1, s1)
    args = [mu1.clone().requires_grad_(), s1.clone().requires_grad_()]
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True)(*args), args)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    x = torch.randn(5, 7, dtype=torch.float64).requires_grad_()
    y = torch.randn(9, 7, dtype=torch.float64)
    of_features = torch.compile(dgmkern.feature_frechet_distance, fullgraph=True)
    torch.testing.assert_close(of_features(x, y), dgmkern.feature_frechet_distance(x, y))


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("trace_sqrtm_product", lambda s, x: (s, s.detach() + 1, 1e-12)),
        ("trace_sqrtm_product_bounded", lambda s, x: (s, s.detach() + 1, 1e-12)),
        ("trace_sqrtm_product_backward", lambda s, x: (torch.tensor(2.0).double(), s, s.detach() + 1, 1e-12)),
        ("nearest_psd", lambda s, x: (s, "s", 1e-12)),
        ("feature_trace", lambda s, x: (x, x.detach() + 1)),
        ("feature_trace_backward", lambda s, x: (torch.tensor(2.0).double(), x, x.detach() + 1)),
        ("covariance_factor", lambda s, x: (s, 1e-12)),
    ],
)
def test_opcheck(op, args):
    s = covariance("well", 4, 1).requires_grad_()
    x = torch.randn(3, 5, dtype=torch.float64).requires_grad_()
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(getattr(OPS, op).default, args(s, x), test_utils=tests)


def test_bad_covariances_are_named():
    good, mu = covariance("well", 6, 1), torch.zeros(6).double()
    wrong = good.clone()
    wrong[0, 1] += 1e-3
    negative = good - 0.6 * torch.eye(6).double()
    for bad, message in (
        (wrong, r"sigma2: expected a symmetric matrix, got one that differs from its transpose by 0.001"),
        (negative, r"sigma2: expected a positive semidefinite matrix, got one with"),
        (torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double(), r"sigma2: expected a positive semidefinite matrix"),
        (good * torch.inf, r"sigma2: expected finite numbers, got \d+ that are not"),
    ):
        first = torch.eye(len(bad)).double()
        for return_bound in (False, True):
            with pytest.raises(ValueError, match=message):
                dgmkern.frechet_distance(mu[: len(bad)], first, mu[: len(bad)], bad, return_bound=return_bound)
    for args, message in (
        ((mu, good, mu, good[:5, :5]), r"sigma2: expected the shape \(6, 6\) of sigma1, got \(5, 5\)"),
        ((mu[:5], good, mu, good), r"mu1: expected the shape \(6,\) beside sigma1, got \(5,\)"),
        ((mu * torch.nan, good, mu, good), r"mu1: expected finite numbers, got 6"),
    ):
        with pytest.raises(ValueError, match=message):
            dgmkern.frechet_distance(*args)


def test_bad_features_are_named():
    x = torch.randn(5, 4)
    for args, error, message in (
        ((x[:1], x), ValueError, r"x: expected features \[N, D\] of at least 2 samples, got \(1, 4\)"),
        ((x, x[:, :3]), ValueError, "y: expected 4 dimensions of torch.float32"),
        ((x, x.double()), ValueError, "y: expected 4 dimensions of torch.float32"),
        ((x, x.half()), TypeError, "y: expected dtype float64 or float32"),
        ((x * np.inf, x), ValueError, "x: expected finite numbers"),
        ((x, (x.mean(0), x[:, :3])), ValueError, r"y: expected a factor \[R, D\] with D = 4"),
    ):
        with pytest.raises(error, match=message):
            dgmkern.feature_frechet_distance(*args)
    sigma = torch.eye(3).double().requires_grad_()
    with pytest.raises(NotImplementedError, match="covariance_factor"):
        dgmkern.covariance_factor(sigma).sum().backward()
