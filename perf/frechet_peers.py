"""Frechet distances by the code of other projects and by ours, on inputs whose distance is known.

`python -m perf.frechet_peers` prints the tables of docs/frechet.md.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from unittest import mock

import mpmath as mp
import torch
from torch import Tensor

import dgmkern
from dgmkern.metrics import frechet_distance
from perf.frechet_inputs import OFFSET, SPECTRA, far_from_zero, few_samples, gaussians
from perf.peer_packages import peer, versions

D, D_INCEPTION = 128, 2048


def pytorch_fid(*gaussians: Tensor) -> float:
    return peer("pytorch_fid.fid_score").calculate_frechet_distance(*(x.numpy() for x in gaussians))


def clean_fid(*gaussians: Tensor) -> float:
    return peer("cleanfid.fid").frechet_distance(*(x.numpy() for x in gaussians))


def torch_fidelity(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> float:
    pairs = ({"mu": mu.numpy(), "sigma": sigma.numpy()} for mu, sigma in ((mu1, sigma1), (mu2, sigma2)))
    return peer("torch_fidelity.metric_fid").fid_statistics_to_metric(*pairs, False)["frechet_inception_distance"]


def torchmetrics(*gaussians: Tensor) -> float:
    return peer("torchmetrics.image.fid")._compute_fid(*gaussians).item()


def piq(*gaussians: Tensor) -> float:
    return peer("piq.fid")._compute_fid(*gaussians).item()


def ours(*gaussians: Tensor) -> float:
    return dgmkern.frechet_distance(*gaussians).item()


def pytorch_fid_features(x: Tensor, y: Tensor) -> float:
    fid, statistics = peer("pytorch_fid.fid_score"), []
    for z in (x, y):  # its own get_activations reads images, and gathers features in fp64
        with mock.patch.object(fid, "get_activations", return_value=z.double().numpy()):
            statistics += fid.calculate_activation_statistics([], None)
    return fid.calculate_frechet_distance(*statistics)


def clean_fid_features(x: Tensor, y: Tensor) -> float:
    return peer("cleanfid.fid").fid_from_feats(x.numpy(), y.numpy())


def torch_fidelity_features(x: Tensor, y: Tensor) -> float:
    fid = peer("torch_fidelity.metric_fid")
    statistics = (fid.fid_features_to_statistics(z) for z in (x, y))
    return fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]


class _Features(torch.nn.Identity):
    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def torchmetrics_features(x: Tensor, y: Tensor) -> float:
    fid = peer("torchmetrics.image.fid").FrechetInceptionDistance(feature=_Features(x.shape[1]))
    for z, real in ((x, True), (y, False)):
        for batch in z.split(64):
            fid.update(batch, real=real)
    return fid.compute().item()


def piq_features(x: Tensor, y: Tensor) -> float:
    return peer("piq.fid").FID()(x, y).item()


def ours_features(x: Tensor, y: Tensor) -> float:
    return frechet_distance(x, y).value


OF_GAUSSIANS = {
    "pytorch-fid": pytorch_fid,
    "clean-fid": clean_fid,
    "torch-fidelity": torch_fidelity,
    "torchmetrics": torchmetrics,
    "piq": piq,
    "dgmkern": ours,
}
OF_FEATURES = {
    "pytorch-fid": pytorch_fid_features,
    "clean-fid": clean_fid_features,
    "torch-fidelity": torch_fidelity_features,
    "torchmetrics": torchmetrics_features,
    "piq": piq_features,
    "dgmkern": ours_features,
}


def error(got: float, want: mp.mpf, scale: mp.mpf) -> float:
    """(got - want) / scale; `want` has 50 digits."""
    return float((mp.mpf(float(got)) - want) / scale)


def outcome(function: Callable[..., float], args: Sequence[Tensor], want: mp.mpf, scale: mp.mpf) -> str:
    """The relative error, "NaN" or the exception; and whether it warned or printed."""
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        try:
            cell = short(error(function(*args), want, scale))
        except ValueError as refused:
            cell = f"ValueError: {str(refused).rstrip('0123456789. ')}"
    warned = any(w.category is not DeprecationWarning for w in caught)  # SciPy's, of sqrtm(disp=False)
    return cell + ", warns" * (warned or bool(printed.getvalue()))


def short(number: float) -> str:
    """2e-8; 0, NaN."""
    if number != number or number == 0:
        return "NaN" if number else "0"
    mantissa, exponent = f"{number:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def table(corner: str, columns: Sequence[str], rows: dict[str, Sequence[str]]) -> str:
    lines = [(corner, *columns), ("---",) * (1 + len(columns)), *((name, *cells) for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def of_gaussians(d: int = D) -> str:
    """Errors of each distance, relative to it (to tr S1 + tr S2 where it is 0), from fp64 and fp32 covariances."""
    pairs = [gaussians(spectrum, d) for spectrum in SPECTRA]
    rows = {}
    for dtype, label in ((torch.float64, "fp64"), (torch.float32, "fp32")):
        for name, function in OF_GAUSSIANS.items():
            rows[f"{name}, {label}"] = [
                outcome(function, [x.to(dtype) for x in pair[:4]], pair.distance, pair.distance or 2 * pair.trace)
                for pair in pairs
            ]
    return table(f"d = {d}", SPECTRA, rows)


def of_features(d: int = D) -> str:
    """Relative errors from fp32 features."""
    sets = {"24 and 20 samples": few_samples(d), f"1000 samples around {OFFSET}": far_from_zero(d)}
    rows = {
        name: [outcome(function, s[:2], s.distance, s.distance) for s in sets.values()]
        for name, function in OF_FEATURES.items()
    }
    return table(f"d = {d}", list(sets), rows)


def of_ours(d: int = D_INCEPTION) -> str:
    """The trace term: its relative error, and the bound on that which comes with it."""
    rows = {}
    for spectrum in SPECTRA:
        pair = gaussians(spectrum, d)
        trace, bound = dgmkern.trace_sqrtm_product(pair.sigma1, pair.sigma2, return_bound=True)
        rows[spectrum] = [
            short(error(trace.item(), pair.trace, pair.trace)),
            short(bound.item() / float(pair.trace)),
        ]
    return table(f"d = {d}", ["relative error", "relative bound"], rows)


def of_sample_sizes(d: int = D) -> str:
    """Distances between samples of one N(0, I), and what is expected for N far over d: (d (d + 1) / 2 + 2 d) / N."""
    sizes = [256, 1024, 4096, 16384]
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(2, n, d, generator=generator, dtype=torch.float64) for n in sizes]
    rows = {
        "estimate": [f"{frechet_distance(*pair).value:.3g}" for pair in sets],
        "expected": [f"{(d * (d + 1) / 2 + 2 * d) / n:.3g}" for n in sizes],
    }
    return table(f"N, d = {d}", [str(n) for n in sizes], rows)


def main() -> None:
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    for made in (of_gaussians, of_features, of_ours, of_sample_sizes):
        print("", made(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
