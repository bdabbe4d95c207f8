"""The Frechet distance by the code of pytorch-fid, clean-fid, torch-fidelity, torchmetrics and piq, in the versions of
the Makefile, and by ours, on inputs whose distance is known: where they are right, and by how much they are not."""

import math
import pathlib

import mpmath as mp
import pytest
import torch

import dgmkern
from dgmkern.metrics import FrechetDistance, frechet_distance
from perf import frechet_peers
from perf.frechet_inputs import SPECTRA, far_from_zero, few_samples, gaussians
from perf.frechet_peers import OF_FEATURES, OF_GAUSSIANS, error

D = 128
BY_ROOTS_OF_EIGENVALUES = ("pytorch-fid", "clean-fid", "torch-fidelity", "torchmetrics")
SHORT_OF_RANK = ("rank d/2", "rank 16", "shared null space", "identical")
DOCS = pathlib.Path(__file__).parents[2] / "docs" / "frechet.md"

pytestmark = [
    pytest.mark.usefixtures("peer"),
    pytest.mark.filterwarnings("ignore:The `disp` argument", "ignore:Matrix is singular"),  # SciPy, to pytorch-fid
]


def relative_error(name: str, spectrum: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> float:
    """Of a distance; relative to tr S1 + tr S2 where the distance is 0."""
    pair = gaussians(spectrum, D, seed)
    distance = OF_GAUSSIANS[name](*(x.to(dtype) for x in pair[:4]))
    return error(distance, pair.distance, pair.distance or 2 * pair.trace)


@pytest.mark.parametrize("spectrum", ["well", "power law", "dead units"])
@pytest.mark.parametrize(
    ("name", "most"),  # 10 times the largest of seeds 0 to 5
    [("pytorch-fid", 4e-13), ("clean-fid", 4e-13), ("torch-fidelity", 2e-13), ("torchmetrics", 2e-13)],
)
def test_peers_and_ours_agree_where_eigenvalues_are_far_from_zero_or_are_zero(name, most, spectrum):
    for seed in range(3):
        assert abs(relative_error(name, spectrum, seed=seed)) <= most
        assert abs(relative_error("dgmkern", spectrum, seed=seed)) <= 2e-13


@pytest.mark.parametrize("spectrum", [*SHORT_OF_RANK, "geometric"])
@pytest.mark.parametrize("name", BY_ROOTS_OF_EIGENVALUES)
def test_roots_of_rounded_eigenvalues_make_peers_too_small(name, spectrum):
    """An eigenvalue 0 that is rounded to 1e-16 has the root 1e-8."""
    assert -1e-6 < relative_error(name, spectrum) < -1e-10
    assert -1e-1 < relative_error(name, spectrum, torch.float32) < (-1e-5 if name != "torch-fidelity" else 0)
    assert abs(relative_error("dgmkern", spectrum)) <= 1e-13


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_ours_is_right_within_its_bound(spectrum):
    pair = gaussians(spectrum, D)
    distance, bound = dgmkern.frechet_distance(*pair[:4], return_bound=True)
    scale = pair.distance or 2 * pair.trace
    assert abs(mp.mpf(distance.item()) - pair.distance) <= bound.item()
    assert abs(error(distance.item(), pair.distance, scale)) <= (1e-10 if spectrum == "geometric, opposed" else 1e-13)
    assert distance == dgmkern.frechet_distance(*pair[:4])
    single = [x.float() for x in pair[:4]]
    if all(torch.equal(x.double(), y) for x, y in zip(single, pair[:4], strict=True)):
        assert abs(error(dgmkern.frechet_distance(*single).item(), pair.distance, scale)) <= 2e-13
    else:  # the distance of other covariances
        assert spectrum in ("power law", "geometric", "geometric, opposed")


def test_where_eigenvalues_oppose_each_other_peers_are_right():
    """Then S1 S2 is nearly a multiple of the identity, and its eigenvalues are easy."""
    for name in BY_ROOTS_OF_EIGENVALUES:
        assert abs(relative_error(name, "geometric, opposed")) <= 1e-11


@pytest.mark.parametrize("name", BY_ROOTS_OF_EIGENVALUES)
def test_equal_gaussians_have_a_negative_distance_by_peers(name):
    for dtype, least in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        pair = gaussians("identical", D)
        scale = pair.sigma1.trace().item()
        arguments = [x.to(dtype) for x in pair[:4]]
        assert OF_GAUSSIANS[name](*arguments) < -least * scale
        assert abs(OF_GAUSSIANS["dgmkern"](*arguments)) <= 1e-12 * scale


@pytest.mark.parametrize("name", ["pytorch-fid", "clean-fid"])
def test_peers_refuse_fp32_covariances_that_are_short_of_rank(name):
    with pytest.raises(ValueError, match="Imaginary component"):  # noqa: PT012 (of which seeds, rounding decides)
        for seed in range(12):
            relative_error(name, "rank d/2", torch.float32, seed)
    for seed in range(12):
        assert abs(relative_error("dgmkern", "rank d/2", torch.float32, seed)) <= 1e-13


def test_piq_stops_at_an_error_of_1e_5_and_is_nan_in_fp32(capsys):
    for spectrum in ("well", "geometric", "power law"):
        assert 1e-7 < abs(relative_error("piq", spectrum)) < 1e-2
    assert "adding 1e-06" not in capsys.readouterr().out
    values = [relative_error("piq", "geometric", torch.float32, seed) for seed in range(6)]
    assert any(math.isnan(value) for value in values)
    assert "adding 1e-06" in capsys.readouterr().out
    assert all(abs(relative_error("dgmkern", "geometric", torch.float32, seed)) <= 1e-7 for seed in range(6))


def test_gradients_of_torchmetrics_are_nan_on_dead_units(peer):
    pair = gaussians("dead units", 32)
    sigma1 = pair.sigma1.clone().requires_grad_()
    theirs = peer("torchmetrics.image.fid")._compute_fid(pair.mu1, sigma1, pair.mu2, pair.sigma2)
    assert torch.autograd.grad(theirs, sigma1)[0].isnan().any()
    ours = dgmkern.frechet_distance(pair.mu1, sigma1, pair.mu2, pair.sigma2)
    assert torch.autograd.grad(ours, sigma1)[0].isfinite().all()


@pytest.mark.parametrize("name", [*OF_FEATURES])
def test_features_of_full_rank(name):
    x, y = torch.randn(500, 24).double(), torch.randn(300, 24).double() * 1.2 + 0.3
    assert OF_FEATURES[name](x, y) == pytest.approx(OF_FEATURES["dgmkern"](x, y), rel=1e-12 if name != "piq" else 1e-3)


def test_fewer_samples_than_features():
    """Covariances are not exact: that costs everyone eight digits who forms them."""
    features = few_samples(D)
    for name in BY_ROOTS_OF_EIGENVALUES:
        assert -1e-6 < error(OF_FEATURES[name](features.x, features.y), features.distance, features.distance) < -1e-10
    result = frechet_distance(features.x, features.y)
    assert abs(error(result.value, features.distance, features.distance)) <= 1e-13
    assert abs(mp.mpf(result.value) - features.distance) <= result.bound <= 1e-9


def test_features_far_from_zero():
    """A mean in fp32 (clean-fid, torch-fidelity), sums of squares (torchmetrics)."""
    features = far_from_zero(D)

    def of(name: str) -> float:
        return abs(error(OF_FEATURES[name](features.x, features.y), features.distance, features.distance))

    assert 1e-7 < of("clean-fid") < 1e-4
    assert 1e-7 < of("torch-fidelity") < 1e-4
    assert 1e-10 < of("torchmetrics") < 1e-7
    assert of("pytorch-fid") <= 1e-13
    assert of("dgmkern") <= 1e-13
    batches = FrechetDistance()
    for x, y in zip(features.x.split(64), features.y.split(64), strict=True):
        batches.update(real=x, generated=y)
    assert abs(error(batches.compute().value, features.distance, features.distance)) <= 1e-13


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


@pytest.mark.parametrize("made", [frechet_peers.of_gaussians, frechet_peers.of_features])
def test_tables_of_the_docs_are_those_of_the_script(made):
    """Errors within a factor of 30, or of rounding (5e-12) in both; what fp32 does to peers is up to rounding."""
    printed = cells(made())
    documented = cells(DOCS.read_text())
    start = documented.index(printed[0])
    for want, got in zip(printed, documented[start : start + len(printed)], strict=True):
        assert want[0] == got[0]
        for a, b in zip(want[1:], got[1:], strict=True):
            if "fp32" in want[0] and "dgmkern" not in want[0]:
                continue
            if want[0].startswith(("d = ", "---")):
                assert a == b
                continue
            one, two = (abs(float(cell.removesuffix(", warns"))) for cell in (a, b))
            assert max(one, two) <= max(30 * min(one, two), 5e-12), (want, got)
