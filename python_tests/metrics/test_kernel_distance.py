import importlib
import math

import numpy as np
import pytest
import torch

from dgmkern.metrics import KernelDistance, kernel_distance


def by_loops(x, y, degree=3, gamma=None, coef=1.0) -> float:
    x, y = np.asarray(x, np.longdouble), np.asarray(y, np.longdouble)
    gamma = 1 / np.longdouble(x.shape[1]) if gamma is None else gamma

    def k(a, b):
        return (gamma * (a * b).sum() + coef) ** degree

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return float(within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m))


def drawn(n, width, seed, shift=0.0, scale=1.0):
    return torch.from_numpy(shift + scale * np.random.default_rng(seed).standard_normal((n, width)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "m"), [(20, 20), (13, 31), (2, 2)])
def test_all_samples_against_a_double_loop(n, m, dtype):
    x, y = drawn(n, 7, 0).to(dtype), drawn(m, 7, 1, 0.3, 1.2).to(dtype)
    result = kernel_distance(x, y, subset_size=None)
    assert result.mean == pytest.approx(by_loops(x.double(), y.double()), rel=1e-12, abs=1e-14)
    assert math.isnan(result.std)


@pytest.mark.parametrize("options", [{"degree": 1}, {"degree": 2, "gamma": 0.5}, {"coef": 0.0}])
def test_other_kernels(options):
    x, y = drawn(15, 4, 0), drawn(12, 4, 1, 0.5)
    assert kernel_distance(x, y, subset_size=None, **options).mean == pytest.approx(
        by_loops(x, y, **options), rel=1e-12, abs=1e-14
    )


def test_blocks_add_up(monkeypatch):
    x, y = drawn(23, 5, 0), drawn(17, 5, 1)
    monkeypatch.setattr(importlib.import_module("dgmkern.metrics.kernel_distance"), "_BLOCK", 4)
    assert kernel_distance(x, y, subset_size=None).mean == pytest.approx(by_loops(x, y), rel=1e-12)


def test_features_of_two_dtypes_with_gradients():
    x, y = drawn(20, 5, 0).requires_grad_(), drawn(17, 5, 1).float().requires_grad_()
    wanted = by_loops(x.detach(), y.detach())
    assert kernel_distance(x, y, subset_size=None).mean == pytest.approx(wanted, rel=1e-12)


def test_one_subset_of_everything_is_the_estimate_of_everything():
    x, y = drawn(30, 5, 0), drawn(30, 5, 1, 0.2)
    result = kernel_distance(x, y, subsets=3, subset_size=30)
    assert result.mean == pytest.approx(by_loops(x, y), rel=1e-12)
    assert result.std < 1e-14


def test_subsets_follow_the_seed_and_are_drawn_without_replacement():
    x, y = drawn(12, 3, 0), drawn(12, 3, 1, 0.5)
    first = kernel_distance(x, y, subsets=20, subset_size=5, seed=1)
    assert first == kernel_distance(x, y, subsets=20, subset_size=5, seed=1)
    assert first != kernel_distance(x, y, subsets=20, subset_size=5, seed=2)
    generator = torch.Generator().manual_seed(1)
    estimates = []
    for _ in range(20):
        i, j = (torch.randperm(12, generator=generator)[:5] for _ in range(2))
        assert len(set(i.tolist())) == 5
        estimates.append(by_loops(x[i], y[j]))
    assert first.mean == pytest.approx(np.mean(estimates), rel=1e-12)
    assert first.std == pytest.approx(np.std(estimates), rel=1e-10)


def test_unbiased_about_zero_for_one_distribution():
    estimates = [
        kernel_distance(drawn(20, 4, 2 * i), drawn(20, 4, 2 * i + 1), subset_size=None).mean for i in range(200)
    ]
    assert min(estimates) < 0 < max(estimates)
    assert abs(np.mean(estimates)) < 4 * np.std(estimates) / math.sqrt(200)


def test_expected_value_in_closed_form():
    # for degree 1, E MMD^2 = gamma |E x - E y|^2
    x, y = drawn(4000, 3, 0, 1.0), drawn(4000, 3, 1, 3.0)
    assert kernel_distance(x, y, subset_size=None, degree=1).mean == pytest.approx(4.0, abs=0.1)


def test_against_torchmetrics(peer):
    kid = peer("torchmetrics.image.kid")
    x, y = drawn(60, 8, 0), drawn(60, 8, 1, 0.1)
    assert kernel_distance(x, y, subset_size=None).mean == pytest.approx(float(kid.poly_mmd(x, y)), rel=1e-10)


def test_against_torch_fidelity(peer):
    kid = peer("torch_fidelity.metric_kid")
    x, y = drawn(60, 8, 0), drawn(60, 8, 1, 0.1)
    options = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1.0}
    theirs = kid.kernel_mmd(x.numpy(), y.numpy(), kid_kernel="poly", **options)
    assert kernel_distance(x, y, subset_size=None).mean == pytest.approx(theirs, rel=1e-10)


def test_batches():
    x, y = drawn(40, 4, 0), drawn(50, 4, 1)
    metric = KernelDistance(subset_size=None)
    for real in x.split(15):
        metric.update(real=real)
        real.zero_() if real.shape[0] == 10 else None
    x = drawn(40, 4, 0)
    metric.update(generated=y[:20])
    metric.update(real=x[:0], generated=y[20:])
    assert metric.compute().mean == pytest.approx(by_loops(x, y), rel=1e-12)
    metric.reset()
    with pytest.raises(ValueError, match=r"real: expected samples by update\(real=...\) before, got none"):
        metric.compute()
    with pytest.raises(ValueError, match="expected real, generated or both, got neither"):
        metric.update()
    metric.update(real=x)
    with pytest.raises(ValueError, match="generated: expected 4 features per sample, as before, got 5"):
        metric.update(real=x, generated=torch.zeros(2, 5))
    metric.update(generated=y)
    assert metric.compute().mean == pytest.approx(by_loops(x, y), rel=1e-12)
    with pytest.raises(TypeError, match="subsetsize"):
        KernelDistance(subsetsize=3)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"real": torch.zeros(9)}, ValueError, r"real: expected \[N, D\]"),
        ({"generated": torch.zeros(10, 4)}, ValueError, "generated: expected the 3 features of real, got 4"),
        ({"generated": torch.full((10, 3), torch.nan)}, ValueError, "generated: .* got 30 NaN .* in 10 of 10 rows"),
        ({"real": torch.zeros(10, 3, dtype=torch.int32)}, TypeError, "real: expected dtype"),
        ({"subset_size": 11}, ValueError, "real: expected at least 11 samples, got 10"),
        ({"real": torch.zeros(1, 3), "subset_size": None}, ValueError, "real: expected at least 2 samples, got 1"),
        ({"subset_size": 1}, ValueError, "subset_size: expected at least 2, got 1"),
        ({"subsets": 0}, ValueError, "subsets: expected at least 1, got 0"),
        ({"degree": 2.5}, TypeError, "degree: expected an int, got float"),
        ({"gamma": math.inf}, ValueError, "gamma: expected a finite number, got inf"),
    ],
)
def test_refused_arguments(change, kind, message):
    arguments = {"real": torch.zeros(10, 3), "generated": torch.zeros(10, 3), "subset_size": 5} | change
    real, generated = arguments.pop("real"), arguments.pop("generated")
    with pytest.raises(kind, match=message):
        kernel_distance(real, generated, **arguments)
