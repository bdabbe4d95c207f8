import math

import numpy as np
import pytest
import torch

from dgmkern.metrics import ModeCoverage, class_coverage


def counted(metric: ModeCoverage, *batches: torch.Tensor):
    for batch in batches:
        metric.update(generated=batch)
    return metric.compute()


def by_numpy(samples, centres, std, within=3.0):
    d = np.sqrt(((np.asarray(samples, float)[:, None] - np.asarray(centres)[None]) ** 2).sum(-1))
    nearest = d.argmin(1)
    good = d.min(1) <= within * std
    counts = np.bincount(nearest[good], minlength=len(centres))
    return (counts > 0).sum(), good.mean(), counts


def test_ring_and_grid_are_those_of_pacgan():
    # fjxmlzn/PacGAN, synthetic_data_experiments: config.py of 2DRing and of 2DGrid
    ring = [[math.cos(i * math.pi * 2 / 8), math.sin(i * math.pi * 2 / 8)] for i in range(8)]
    grid = [[i, j] for i in range(-4, 5, 2) for j in range(-4, 5, 2)]
    for metric, centres, std in ((ModeCoverage.ring(), ring, 0.01), (ModeCoverage.grid(), grid, 0.05)):
        np.testing.assert_allclose(metric.centres.numpy(), centres, atol=1e-15)
        assert (metric.std, metric.within) == (std, 3.0)


@pytest.mark.parametrize("make", [ModeCoverage.ring, ModeCoverage.grid])
def test_the_data_itself(make):
    metric = make()
    modes = torch.arange(25_000) % len(metric.centres)
    x = metric.centres[modes] + metric.std * torch.randn(25_000, 2, dtype=torch.float64)
    result = counted(metric, *x.split(7000))
    assert result.modes == len(metric.centres)
    assert result.high_quality == pytest.approx(1 - math.exp(-4.5), abs=4 * math.sqrt(0.011 / 25_000))
    modes, quality, counts = by_numpy(x, metric.centres, metric.std)
    assert (result.modes, result.counts.tolist()) == (modes, counts.tolist())
    assert result.high_quality == pytest.approx(quality, rel=1e-15)


def test_known_samples():
    x = torch.tensor([[1.0, 0.029], [1.0, 0.031], [0.0, -1.0], [-1.0, 0.0], [-1.02, 0.0], [0.0, 0.0], [50.0, 1.0]])
    result = counted(ModeCoverage.ring(), x)
    assert (result.modes, result.high_quality) == (3, 4 / 7)
    assert result.counts.tolist() == [1, 0, 0, 0, 2, 0, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_any_mixture_dtype_and_split(dtype, monkeypatch):
    centres = torch.randn(7, 5, dtype=torch.float64)
    x = (centres[torch.randint(5, (300,))] + 0.4 * torch.randn(300, 5)).to(dtype)
    wanted = by_numpy(x.double(), centres, 0.3, 2.5)
    metric = ModeCoverage(centres, 0.3, within=2.5)
    for step in (300, 77, 1):
        metric.reset()
        result = counted(metric, *x.split(step))
        assert (result.modes, result.counts.tolist()) == (wanted[0], wanted[2].tolist())
        assert result.high_quality == pytest.approx(wanted[1], rel=1e-15)


def test_a_result_does_not_change_with_further_samples():
    metric = ModeCoverage.grid()
    first = counted(metric, metric.centres[:3])
    assert counted(metric, metric.centres[3:]).modes == 25
    assert (first.modes, int(first.counts.sum())) == (3, 3)
    metric.reset()
    with pytest.raises(ValueError, match=r"generated: expected samples .* before, got none"):
        metric.compute()


def test_histogram_of_classes_against_scipy():
    entropy = pytest.importorskip("scipy.stats").entropy
    rng = np.random.default_rng(0)
    generated, real = rng.integers(0, 90, 500), rng.integers(0, 100, 3000)
    result = class_coverage(torch.from_numpy(generated), torch.from_numpy(real), classes=100)
    g, r = (np.bincount(x, minlength=100) for x in (generated, real))
    assert result.modes == (g > 0).sum()
    assert result.reverse_kl == pytest.approx(entropy(g, r), rel=1e-12)
    assert class_coverage(torch.from_numpy(generated), classes=100).reverse_kl == pytest.approx(
        entropy(g, np.ones(100)), rel=1e-12
    )


def test_histograms_in_closed_form():
    every = torch.arange(1000)
    assert class_coverage(every, classes=1000) == (1000, 0.0)
    assert class_coverage(every.repeat(3), every, classes=1000) == (1000, pytest.approx(0, abs=1e-15))
    assert class_coverage(every[:1], classes=1000) == (1, pytest.approx(math.log(1000), rel=1e-15))
    assert class_coverage(every[:250].to(torch.int32), classes=1000) == (250, pytest.approx(math.log(4), rel=1e-14))
    assert class_coverage(torch.tensor([0, 1]), torch.tensor([0, 0]), classes=2) == (2, math.inf)
    digits = torch.tensor([[1, 2, 3], [0, 0, 0], [9, 9, 9]])
    assert class_coverage(digits @ torch.tensor([100, 10, 1]), classes=1000).modes == 3


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: ModeCoverage(torch.zeros(3), 1.0), ValueError, "centres: expected .N, D"),
        (lambda: ModeCoverage(torch.zeros(3, 2), 0.0), ValueError, "std: expected a finite number > 0, got 0.0"),
        (lambda: ModeCoverage(torch.zeros(3, 2), 1.0, -1), ValueError, "within: expected a finite number > 0, got -1"),
        (lambda: ModeCoverage.ring(0), ValueError, "modes: expected at least 1, got 0"),
        (lambda: counted(ModeCoverage.ring(), torch.zeros(4, 3)), ValueError, "generated: expected 2 features"),
        (
            lambda: counted(ModeCoverage.ring(), torch.full((4, 2), torch.nan)),
            ValueError,
            "got 8 NaN .* in 4 of 4",
        ),
        (lambda: class_coverage(torch.zeros(3), classes=3), TypeError, "generated: expected an integer dtype"),
        (lambda: class_coverage([1], classes=3), TypeError, "generated: expected a tensor, got list"),
        (lambda: class_coverage(torch.tensor([0, 3, -1]), classes=3), ValueError, r"in \[0, 3\), got 2 of 3 outside"),
        (lambda: class_coverage(torch.tensor([0]), torch.tensor([9]), classes=3), ValueError, "real: expected classes"),
        (lambda: class_coverage(torch.zeros(0, dtype=torch.long), classes=3), ValueError, "at least one class"),
        (lambda: class_coverage(torch.tensor([0]), classes=0), ValueError, "classes: expected at least 1"),
    ],
)
def test_refused_arguments(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
