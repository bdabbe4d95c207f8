"""The polar iteration and factors of Triton's matrix ops; test_interpreted.py runs this in the interpreter."""

import mpmath as mp
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dgmkern
from dgmkern.triton import _factor, _launch, _polar, _polar_steps

OPS = torch.ops.dgmkern
EPS = torch.finfo(torch.float64).eps
SPECTRA = ["well", "geometric", "power law", "rank d/2", "dead units"]
FP64, FP32 = 1e-12, 1e-1  # rounding of covariances that came in fp64, and in fp32: the low mode


def orthogonal(d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q


def rows_of(spectrum: str, d: int, seed: int) -> torch.Tensor:
    """A [d, d] with a covariance A^T A of this spectrum."""
    values = torch.linspace(0.5, 2, d, dtype=torch.float64)
    if spectrum == "geometric":
        values = torch.logspace(0, -12, d, dtype=torch.float64)
    elif spectrum == "power law":
        values = torch.arange(1, d + 1, dtype=torch.float64) ** -2
    elif spectrum == "rank d/2":
        values[d // 2 :] = 0
    a = values.sqrt().unsqueeze(-1) * orthogonal(d, seed)
    if spectrum == "dead units":
        a[:, ::5] = 0
    return a


def groups(d: int, seed: int) -> torch.Tensor:
    """Ten features of four each explain, but for 1e-3."""
    generator = torch.Generator().manual_seed(seed)
    bases, noise = torch.randn(2, d, d, generator=generator, dtype=torch.float64)
    bases = bases.view(d, -1, 10) * (torch.arange(10) < 4)
    return (bases @ torch.randn(10, 10, generator=generator, dtype=torch.float64)).view(d, d) + 1e-3 * noise


def covariance(a: torch.Tensor) -> torch.Tensor:
    s = a.mT @ a
    return (s + s.mT) / 2


def test_the_quintics_are_the_best_and_their_composition_is_1_on_the_whole_interval():
    for least in (_polar_steps.CUSHION, 0.1, 0.8):
        (a, b, c), e = _polar_steps.closest_to_1(least)
        x = np.linspace(least, 1, 200_001)
        error = 1 - (a * x + b * x**3 + c * x**5)
        assert np.abs(error).max() == pytest.approx(e, rel=1e-8)
        # four alternations for three coefficients: no odd quintic is closer (Chebyshev)
        signs = np.sign(error[np.abs(error) > e * (1 - 1e-6)])
        assert 1 + np.count_nonzero(np.diff(signs)) == 4
    for mode in ("strict", "low"):
        least = _polar_steps.least_converged(mode)
        assert least < {"strict": 2**-52, "low": 2e-9}[mode] * 1.01
        x = [mp.mpf(least) ** (mp.mpf(k) / 400) for k in range(401)]
        below = [least * mp.mpf(k) / 100 for k in range(100)]
        for a, b, c in _polar_steps.sequence(mode):
            x, below = ([v * (a + v * v * (b + v * v * c)) for v in values] for values in (x, below))
            assert max(*x, *below) <= 1 + 1e-5
        assert max(abs(v - 1) for v in x) <= 1e-15
        assert min(below) >= 0


@pytest.mark.parametrize(("m", "n"), [(20, 20), (40, 7), (7, 40), (1, 1), (150, 131)])
def test_polar_factors_against_lapack(m, n):
    b = torch.randn(2, m, n, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(b, full_matrices=False)
    got = OPS.polar_factor(b)
    conditioning = 1 / torch.linalg.svdvals(b)[:, -2:].mean().item()
    torch.testing.assert_close(got, u @ vh, rtol=0, atol=1e-13 * max(1, conditioning))


@pytest.mark.parametrize("spectrum", ["rank d/2", "dead units", "zero"])
def test_over_a_null_space_a_polar_factor_is_0_and_the_iteration_a_contraction(spectrum):
    a = torch.zeros(40, 40).double() if spectrum == "zero" else rows_of(spectrum, 40, 1) @ orthogonal(40, 2)
    u, values, vh = torch.linalg.svd(a)
    want = (u * (values > 1e-12 * values[0])) @ vh
    torch.testing.assert_close(OPS.polar_factor(a), want, rtol=0, atol=1e-12)
    q = _polar.polar(a)
    assert torch.linalg.matrix_norm(q, 2) <= 1 + 1e-13
    assert (q * a).sum().item() == pytest.approx(values.sum().item(), rel=1e-13)


@pytest.mark.parametrize("d", [20, 40, 150])
@pytest.mark.parametrize("spectrum", [*SPECTRA, "groups"])
def test_factors_are_those_of_the_matrix_and_as_wide_as_its_rank(spectrum, d):
    s = covariance(groups(d, 1) if spectrum == "groups" else rows_of(spectrum, d, 1))
    factor = _factor.factor(s)
    assert (factor @ factor.mT - s).abs().max() <= 2 * d * EPS * s.diagonal().max()
    rank = {"rank d/2": d // 2, "dead units": d - len(range(0, d, 5))}.get(spectrum, d)
    assert factor.any(0).sum() == rank


def test_panels_end_whatever_they_leave(monkeypatch):
    """With no more than one pivot a panel, until the panels in which every pivot is taken."""
    monkeypatch.setattr(_factor, "OF_LARGEST", 1.0)
    s = covariance(rows_of("rank d/2", 140, 3))
    factor = _factor.factor(torch.stack([s, torch.eye(140).double(), torch.zeros(140, 140).double()]))
    assert (factor[0] @ factor[0].mT - s).abs().max() <= 1e-12
    assert torch.equal(factor[1] @ factor[1].mT, torch.eye(140).double())
    assert not factor[2].any()


@pytest.mark.parametrize("spectrum", [*SPECTRA, "groups"])
def test_traces_over_128_wide_in_both_modes(spectrum):
    a1, a2 = (groups(150, seed) if spectrum == "groups" else rows_of(spectrum, 150, seed) for seed in (1, 2))
    want = torch.linalg.svdvals(a1 @ a2.mT).sum().item()
    s1, s2 = covariance(a1), covariance(a2)
    strict, low = (OPS.trace_sqrtm_product(s1, s2, rounding).item() for rounding in (FP64, FP32))
    assert strict == pytest.approx(want, rel=1e-12)
    assert low == pytest.approx(want, rel=1e-8)
    assert low != strict


def test_batches_of_small_matrices_are_each_their_own():
    s = torch.stack([covariance(rows_of(spectrum, 20, 1)) for spectrum in SPECTRA])
    together = OPS.trace_sqrtm_product(s, s.flip(0), FP64)
    for k in range(len(s)):
        assert torch.equal(together[k], OPS.trace_sqrtm_product(s[k], s.flip(0)[k], FP64))
    scaled = OPS.trace_sqrtm_product(s * 1e-200, s.flip(0) * 1e150, FP64)
    torch.testing.assert_close(scaled, together * 1e-25, rtol=1e-13, atol=0)
    assert OPS.trace_sqrtm_product(s[:0], s[:0], FP64).shape == (0,)


def test_negative_eigenvalues_are_cut_off():
    q, values = orthogonal(30, 4), torch.linspace(-1, 2, 30, dtype=torch.float64)
    got = OPS.nearest_psd((q * values) @ q.mT, "s", 1e-3)
    torch.testing.assert_close(got, (q * values.clamp(min=0)) @ q.mT, rtol=0, atol=1e-14)
    assert torch.equal(got, got.mT)


@pytest.mark.parametrize(("n", "m", "d"), [(5, 8, 30), (30, 12, 9)])
def test_the_gradient_by_features_is_the_polar_factor_times_the_others(n, m, d):
    a1, a2 = torch.randn(n, d, dtype=torch.float64), torch.randn(m, d, dtype=torch.float64)
    u, values, vh = torch.linalg.svd(a1 @ a2.mT, full_matrices=False)
    q = (u * (values > 1e-12 * values[0])) @ vh
    by1, by2 = OPS.feature_trace_backward(torch.tensor(2.0).double(), a1, a2)
    torch.testing.assert_close(by1, 2 * q @ a2, rtol=0, atol=1e-11)
    torch.testing.assert_close(by2, 2 * q.mT @ a1, rtol=0, atol=1e-11)
    assert OPS.feature_trace(a1, a2).item() == pytest.approx(values.sum().item(), rel=1e-13)


@pytest.mark.parametrize("d", [5, 140])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_makes_nan_of_its_matrix_alone(d, bad):
    s = torch.eye(d).double().repeat(2, 1, 1)
    spoiled = s.clone()
    spoiled[1, 2, 3] = spoiled[1, 3, 2] = bad
    for args in ((s, spoiled), (spoiled, s)):
        trace = OPS.trace_sqrtm_product(*args, FP64)
        assert trace[0].item() == pytest.approx(d)
        assert trace[1].isnan()
    assert OPS.feature_trace(s[0], spoiled[1]).isnan()


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a GPU, which a graph cannot capture."""

    WAIT = ("_local_scalar_dense", "nonzero", "aten.equal", "eigh", "svd")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(name in str(func) for name in self.WAIT), f"{func} waits"
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device(monkeypatch):
    launched = []
    monkeypatch.setattr(_launch, "hook", lambda kernel, arguments: launched.append(kernel))
    x = torch.randn(8, 20, dtype=torch.float64)
    for d in (20, 140):
        s, grad = torch.eye(d).double(), torch.tensor(1.0).double()
        for op, args in (
            ("nuclear_norm", (s,)),
            ("polar_factor", (s,)),
            ("nearest_psd", (s, "s", 1e-3)),
            ("trace_sqrtm_product", (s, s, FP64)),
            ("trace_sqrtm_product", (s, s, FP32)),
            ("trace_sqrtm_product_bounded", (s, s, FP64)),
            ("feature_trace", (x, x)),
            ("feature_trace_backward", (grad, x, x)),
        ):
            counts = []
            for _ in range(2):
                launched.clear()
                with NoWaiting():
                    getattr(OPS, op)(*args)
                counts.append(len(launched))
            assert counts[0] == counts[1] > 0


def test_the_ops_without_kernels_are_plain_torch():
    grid = dgmkern.ops.backends()
    without = {name for name, row in grid.items() if row["triton"] is not True}
    assert without == {
        *("sqrtm", "sqrtm_backward", "inverse_root", "polar_factor_backward", "covariance_factor"),
        *("trace_sqrtm_product_backward", "feature_trace", "feature_trace_backward"),
    }
    assert torch.equal(OPS.covariance_factor(torch.eye(3).double(), 1e-9).abs().sum(0), torch.ones(3).double())
