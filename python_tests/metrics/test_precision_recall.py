import numpy as np
import pytest
import torch

from dgmkern.metrics import PrecisionRecall, _distances, precision_recall


def distances(a, b):
    """Of differences, which copies and ties survive."""
    return np.sqrt(((a[:, None].astype(np.longdouble) - b[None].astype(np.longdouble)) ** 2).sum(-1))


def by_numpy(real, generated, k=3, density_k=5):
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)

    def radii(x, k):
        d = distances(x, x)
        np.fill_diagonal(d, np.inf)
        return np.sort(d, 1)[:, k - 1]

    d = distances(real, generated)
    balls = d <= radii(real, density_k)[:, None]
    return (
        (d <= radii(real, k)[:, None]).any(0).mean(),
        (d <= radii(generated, k)[None]).any(1).mean(),
        balls.sum(0).mean() / density_k,
        balls.any(1).mean(),
    )


def drawn(n, width, seed=0, shift=0.0, scale=1.0):
    return torch.from_numpy(shift + scale * np.random.default_rng(seed).standard_normal((n, width)))


def equal(result, wanted):
    assert result == pytest.approx(wanted, rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize(("k", "density_k"), [(1, 1), (3, 5), (7, 2)])
def test_against_numpy(dtype, k, density_k):
    real, generated = drawn(80, 4).to(dtype), drawn(63, 4, 1, 0.4, 1.1).to(dtype)
    wanted = by_numpy(real.double(), generated.double(), k, density_k)
    assert all(0.1 < value < 0.99 or k == 7 for value in wanted[:2])
    equal(precision_recall(real, generated, k=k, density_k=density_k), wanted)


def test_identical_sets():
    x = drawn(50, 6)
    result = precision_recall(x, x.clone())
    assert (result.precision, result.recall, result.coverage) == (1, 1, 1)
    assert result.density == pytest.approx(
        6 / 5
    )  # each closed ball has its centre and 5 neighbours, one on its surface


def test_disjoint_sets():
    result = precision_recall(drawn(50, 6), drawn(40, 6, 1, 100.0))
    assert tuple(result) == (0, 0, 0, 0)


def test_a_generator_that_knows_one_mode_of_two():
    left, right = drawn(30, 2, 0), drawn(30, 2, 1, 50.0)
    result = precision_recall(torch.cat((left, right)), left.repeat(2, 1), k=4)
    assert result.precision == 1
    assert result.recall == pytest.approx(0.5)
    assert result.coverage == pytest.approx(0.5)


def test_density_of_one_distribution_is_about_one():
    result = precision_recall(drawn(1000, 8), drawn(1000, 8, 1))
    assert result.density == pytest.approx(1, abs=0.05)
    assert result.coverage == pytest.approx(1 - 2.0**-5, abs=0.02)  # Naeem et al. 2020, section 3.2


@pytest.mark.parametrize("offset", [0.0, 1e6, -3e8])
def test_near_duplicates_far_from_zero(offset):
    """Distances of 1e-6 of features near 1e6, where |x|^2 + |y|^2 - 2 x.y has no digit."""
    base = drawn(20, 16)
    real = offset + torch.cat([base + 1e-3 * drawn(20, 16, seed) for seed in (1, 2, 3)])
    generated = offset + torch.cat([base + 1e-3 * drawn(20, 16, seed) for seed in (4, 5)])
    generated[:5] = real[:5]
    equal(precision_recall(real, generated), by_numpy(real, generated))


def test_copies_and_ties():
    lattice = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * 3) * 0.1 + 7.3
    for real, generated in ((lattice, lattice[::3]), (lattice.repeat(3, 1), lattice), (drawn(40, 5), drawn(40, 5)[7:])):
        for k in (1, 2, 4):
            equal(precision_recall(real, generated, k=k, density_k=k), by_pairs(real, generated, k))


def by_pairs(real, generated, k):
    """By the fp64 differences themselves, whose rounding makes or breaks ties, pair by pair."""

    def d(a, b):
        return torch.stack([torch.cdist(r[None], b, compute_mode="donot_use_mm_for_euclid_dist")[0] for r in a])

    def radii(x):
        return d(x, x).sort(1).values[:, k]

    cross = d(real, generated)
    balls = cross <= radii(real)[:, None]
    recall = (cross <= radii(generated)).any(1)
    wanted = (balls.any(0), recall, balls.double().sum(0) / k, balls.any(1))
    return tuple(float(part.double().mean()) for part in wanted)


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_radii_are_those_of_differences_to_the_bit(offset, monkeypatch):
    monkeypatch.setattr(_distances, "_ENTRIES", 2500)
    monkeypatch.setattr(_distances, "_ROWS", 5)
    monkeypatch.setattr(_distances, "_COLUMNS", 16)
    monkeypatch.setattr(_distances, "_GATHERED", 2000)
    x = drawn(90, 33, 0, offset).float()
    x[40:50] = x[:10]
    wanted = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").sort(1).values
    assert torch.equal(_distances.neighbour_distances(x, (2, 1, 5)), wanted[:, [2, 1, 5]])
    y = drawn(70, 33, 1, offset)
    equal(precision_recall(x, y), by_numpy(x.double(), y))


def test_against_prdc(peer):
    prdc = peer("prdc")
    real, generated = drawn(90, 5), drawn(70, 5, 1, 0.3)
    theirs = prdc.compute_prdc(real.numpy(), generated.numpy(), nearest_k=4)
    equal(precision_recall(real, generated, k=4, density_k=4)._asdict(), theirs)


def test_against_torch_fidelity(peer):
    theirs = peer("torch_fidelity.metric_prc")
    real, generated = drawn(90, 5), drawn(70, 5, 1, 0.3)
    precision, recall = theirs.calculate_precision_recall_full(generated, real, neighborhood=3)
    assert precision_recall(real, generated)[:2] == pytest.approx((precision, recall), rel=1e-6)


def test_features_of_two_dtypes_with_gradients_and_strides():
    real, generated = drawn(60, 8).float()[:, ::2].requires_grad_(), drawn(4, 50, 1, 0.3).T.requires_grad_()
    result = precision_recall(real, generated)
    equal(result, by_numpy(real.detach().double(), generated.detach()))


def test_one_outlier_that_makes_the_error_bound_coarse():
    real, generated = drawn(60, 4), drawn(50, 4, 1, 0.3)
    real[7] = 1e9
    generated[3] = -1e12
    equal(precision_recall(real, generated), by_numpy(real, generated))


def test_batches():
    real, generated = drawn(40, 3), drawn(30, 3, 1, 0.4)
    metric = PrecisionRecall(k=2)
    for batch in real.split(11):
        metric.update(real=batch)
    metric.update(generated=generated)
    equal(metric.compute(), by_numpy(real, generated, 2))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"generated": torch.zeros(10, 4)}, ValueError, "generated: expected the 3 features of real, got 4"),
        ({"real": torch.full((10, 3), torch.inf)}, ValueError, "real: .* got 0 NaN and 30 infinite in 10 of 10 rows"),
        ({"k": 10, "density_k": 1}, ValueError, "real: expected more than 10 samples .* got 10"),
        ({"density_k": 10}, ValueError, "real: expected more than 10 samples .* got 10"),
        ({"generated": torch.zeros(3, 3)}, ValueError, "generated: expected more than 3 samples .* got 3"),
        ({"k": 0}, ValueError, "k: expected at least 1, got 0"),
        ({"density_k": 1.0}, TypeError, "density_k: expected an int, got float"),
        ({"real": None}, TypeError, "real: expected a tensor, got NoneType"),
    ],
)
def test_refused_arguments(change, kind, message):
    arguments = {"real": torch.zeros(10, 3), "generated": torch.zeros(10, 3)} | change
    real, generated = arguments.pop("real"), arguments.pop("generated")
    with pytest.raises(kind, match=message):
        precision_recall(real, generated, **arguments)
