"""Cases of the Frechet distance's trace term, from covariances and from features.

Peers: eigvals, as torchmetrics and torch-fidelity take it; sqrtm, as pytorch-fid and clean-fid do; eigh, twice.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

import dgmkern
from dgmkern import reference
from perf.case import Case, Setting, Target, Variant

try:
    import scipy.linalg
except ImportError:
    scipy = None

WIDTHS = (64, 256, 512, 2048)
BATCH, SMALL = 500, 100
SAMPLES, FEATURES = 128, 2048


def by_eigvals(s1: Tensor, s2: Tensor) -> Tensor:
    return torch.linalg.eigvals(s1 @ s2).sqrt().real.sum(-1)


def by_sqrtm(s1: Tensor, s2: Tensor) -> Tensor:
    return torch.as_tensor(scipy.linalg.sqrtm((s1 @ s2).numpy()).real.trace())


def by_eigh(s1: Tensor, s2: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(s1)
    root = (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT
    return torch.linalg.eigvalsh(root @ s2 @ root).clamp(min=0).sqrt().sum(-1)


def covariances(shape: tuple[int, ...], width: int, device: str, dtype: torch.dtype = torch.float64) -> SimpleNamespace:
    """Of features whose units have standard deviations from 0.1 to 2."""
    x = torch.randn(2, *shape, 2 * width, width, dtype=torch.float64, device=device)
    x *= torch.linspace(0.1, 2, width, dtype=torch.float64, device=device)
    s1, s2 = (x.mT @ x / (2 * width)).to(dtype)
    return SimpleNamespace(s1=s1, s2=s2)


def check(inputs: SimpleNamespace, trace: Tensor) -> None:
    want = reference.frechet.trace_sqrtm_product(inputs.s1, inputs.s2, 1e-9)
    torch.testing.assert_close(trace, want, rtol=1e-12, atol=0)


def check_fp32(inputs: SimpleNamespace, trace: Tensor) -> None:
    want = reference.frechet.trace_sqrtm_product(inputs.s1.double(), inputs.s2.double(), 1e-2)
    torch.testing.assert_close(trace, want, rtol=4e-7, atol=0)


def features(setting: Setting) -> SimpleNamespace:
    x = torch.randn(2, SAMPLES, FEATURES, device=setting.device)
    return SimpleNamespace(x=x[0].requires_grad_(), y=x[1])


def by_covariances(i: SimpleNamespace) -> Tensor:
    """The value alone, by way of covariances."""
    with torch.no_grad():
        s1, s2 = (torch.cov(x.mT.double()) for x in (i.x, i.y))
        return by_eigvals(s1, s2)


def loss(i: SimpleNamespace) -> tuple[Tensor, Tensor]:
    distance = dgmkern.feature_frechet_distance(i.x, i.y)
    return distance, torch.autograd.grad(distance, i.x)[0]


def check_loss(i: SimpleNamespace, output: tuple[Tensor, Tensor]) -> None:
    """The gradient by x of |x|^2 - 2 |A_x A_y^T|_* in fp64."""
    x, y = i.x.detach().double(), i.y.double()
    a, b = ((z - z.mean(0)) / (SAMPLES - 1) ** 0.5 for z in (x, y))
    u, values, vh = torch.linalg.svd(a @ b.mT)
    keep = (values > 1e-9 * values[0]).double()
    distance = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * values.sum()
    by_a = 2 * (a - (u * keep) @ vh @ b) / (SAMPLES - 1) ** 0.5
    want = by_a - by_a.mean(0) + 2 * (x.mean(0) - y.mean(0)) / SAMPLES
    torch.testing.assert_close(output[0].detach(), distance, rtol=1e-12, atol=0)
    torch.testing.assert_close(output[1].double(), want, rtol=1e-5, atol=1e-7)


def batched(count: int, width: int, setting: Setting, targets: tuple[Target, ...] = ()) -> Case:
    return Case(
        f"trace_sqrtm_product/batched/{count}x{width}x{width}/fp64",
        lambda: covariances((count,), width, setting.device),
        {"eager": Variant(lambda i: by_eigh(i.s1, i.s2)), "dgmkern": ours()},
        bytes_moved=16 * count * width**2,
        elements=count * width**2,
        targets=targets,
    )


def ours() -> Variant:
    return Variant(lambda i: dgmkern.trace_sqrtm_product(i.s1, i.s2), check)


def bounded() -> Variant:
    def check_both(inputs: SimpleNamespace, output: tuple[Tensor, Tensor]) -> None:
        check(inputs, output[0])
        assert 0 < output[1] < 1e-6 * output[0]

    return Variant(lambda i: dgmkern.trace_sqrtm_product(i.s1, i.s2, return_bound=True), check_both)


def cases(setting: Setting) -> list[Case]:
    made = []
    for width in WIDTHS:
        variants = {"eager": Variant(lambda i: by_eigvals(i.s1, i.s2))}
        targets = [Target("eager", at_least=3.0)] if width == 2048 else []
        if scipy is not None and setting.device == "cpu":
            variants["scipy sqrtm"] = Variant(lambda i: by_sqrtm(i.s1, i.s2))
            targets += [Target("scipy sqrtm", at_least=10.0)] if width == 2048 else []
        made.append(
            Case(
                f"trace_sqrtm_product/{width}x{width}/fp64",
                lambda width=width: covariances((), width, setting.device),
                variants | {"dgmkern": ours(), "dgmkern, with its bound": bounded()},
                bytes_moved=16 * width * width,
                elements=width * width,
                targets=tuple(targets),
            )
        )
    made.append(
        Case(
            f"trace_sqrtm_product/{FEATURES}x{FEATURES}/fp32",
            lambda: covariances((), FEATURES, setting.device, torch.float32),
            {
                "eager": Variant(lambda i: by_eigvals(i.s1.double(), i.s2.double())),
                "dgmkern": Variant(lambda i: dgmkern.trace_sqrtm_product(i.s1, i.s2), check_fp32),
            },
            bytes_moved=8 * FEATURES**2,
            elements=FEATURES**2,
        )
    )
    made.append(batched(BATCH, SMALL, setting, (Target("eager", at_least=3.0),)))
    made.append(
        Case(
            f"feature_frechet_distance/backward/{SAMPLES}x{FEATURES}/fp32",
            lambda: features(setting),
            {"eager": Variant(by_covariances), "dgmkern": Variant(loss, check_loss)},
            bytes_moved=4 * 3 * SAMPLES * FEATURES,
            elements=SAMPLES * FEATURES,
        )
    )
    return made


def sweeps(setting: Setting) -> dict[str, Callable[[int], Case]]:
    return {"trace_sqrtm_product/batched": lambda n: batched(n // 100, 10, setting)}
