"""Every op on a device against fp64 on the CPU: what the GPU check runs, without pytest.

`python -m perf.gpu_ops cuda` with DGMKERN_BACKEND=cuda or triton; `python -m perf.gpu_ops cpu` rehearses it where
DGMKERN_EMULATE=1 or TRITON_INTERPRET=1 lets these kernels run without a GPU. Exit code 1 where anything failed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import dgmkern
from dgmkern import _library, reference

sys.path.insert(0, str(Path(__file__).parents[1] / "python_tests" / "ops"))
from cases import CASES, Case, largest, outputs_and_gradients

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# tails, one sample over a tile, many over one, samples of several parts, of one element; few samples, since at
# t = 0, which one of more would have, the bound has another formula (python_tests/ops/test_bound.py)
SHAPES = ((7, 3, 5, 2), (5, 600), (3, 9000), (4,), (2, 3, 33, 31), (2, 40000), (15, 2), (9, 784))


def check_accuracy(case: Case, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    """Forward error at most twice, gradient error at most three times that of eager torch in the same dtype."""
    x = case.make(shape, dtype)
    noise = {}
    if case.draws:
        noise["noise"] = dgmkern.normal(case.noise_shape(x), 5, dtype=x[case.noise_as].dtype)
    exact_noise = {k: v.double() for k, v in noise.items()}
    exact_x = [t.double() for t in x]
    cotangents = [
        torch.randn(o.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).to(dtype)
        for o in case.eager(*exact_x, **exact_noise)
    ]
    exact = outputs_and_gradients(case.eager, exact_x, exact_noise, cotangents)
    eager = outputs_and_gradients(case.eager, x, noise, cotangents)
    there = [t.to(device) for t in x]
    for how in ({k: v.to(device) for k, v in noise.items()}, {"seed": 5}) if case.draws else ({},):
        ours = outputs_and_gradients(case.call, there, how, cotangents)
        # in fp64 eager is itself the truth, give or take what sums cost; groups of two cancel
        slack = torch.finfo(dtype).eps * ((2**16 if case.sums else 64) if dtype == torch.float64 else 1)
        # where a gradient goes to any of several numbers it comes from plain torch, with an error like eager's own
        groups = [(2, 0)] + ([(4 if case.ties else 3, 1)] if not case.ties or dtype.itemsize > 2 else [])
        for factor, which in groups:
            for a, b, c in zip(ours[which], eager[which], exact[which], strict=False):  # drawn noise has no gradient
                bound = factor * largest(b - c) + slack * max(largest(c), 0.1)  # terms are of order 1 and may cancel
                error = largest(a.cpu() - c)
                assert error <= bound, f"{'gradient' if which else 'result'}: error {error:.3g}, allowed {bound:.3g}"


def check_layouts(case: Case, device: str) -> None:
    """channels_last, other strides and an odd offset of the storage give what dense tensors give."""
    x = [t.to(device) for t in case.make((4, 6, 5, 3))]
    how = {"seed": 9, "offset": 3} if case.draws else {}
    expected = case.call(*x, **how)
    for lay in (
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.transpose(0, 3).contiguous().transpose(0, 3),
        lambda t: torch.cat([t.new_zeros(3), t.flatten()])[3:].view(t.shape),
    ):
        got = case.call(*[lay(t) if t.dim() == 4 else t for t in x], **how)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)


def check_graph(case: Case, device: str) -> None:
    """A CUDA graph captures the op, draws of seeds included; replay gives fresh noise and right results."""
    x = [t.to(device) for t in case.make((6, 40))]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        case.call(*x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = case.call(*x)
    graph.replay()
    first = [o.clone() for o in captured]
    graph.replay()
    torch.cuda.synchronize()
    same = all(torch.equal(a, b) for a, b in zip(first, captured, strict=True))
    assert same != (case.draws and case.generates), "replays differ" if not same else "replays repeat their noise"
    if not case.draws:
        for a, b in zip(first, case.call(*x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def check_steps_outside(device: str) -> None:
    """On CUDA a step outside the schedule makes NaN of its sample alone."""
    schedule = dgmkern.DiffusionSchedule.linear(30)
    x = torch.randn(4, 3, 8, 8, device=device)
    for bad in (-1, 30, 2**62, -(2**62)):
        t = torch.tensor([0, bad, 29, 3], device=device)
        results = {
            "q_sample": dgmkern.q_sample(x, t, schedule, seed=1),
            "p_sample": dgmkern.p_sample(x, x, t, schedule, seed=1),
            "ddim_step": dgmkern.ddim_step(x, x, t, torch.full_like(t, -1), schedule),
            "diffusion_mse": dgmkern.diffusion_mse(x, x, t, schedule, seed=1),
            "vb_terms": dgmkern.vb_terms(x, x, x, t, schedule),
        }
        for name, out in results.items():
            nan = out.isnan().reshape(4, -1)
            assert nan[1].all(), f"{name}: step {bad} does not give NaN"
            assert not nan[[0, 2, 3]].any(), f"{name}: step {bad} spoils other samples"


def covariances(d: int, rank: int) -> Tensor:
    """Two of rank `rank` whose eigenvalues span six decades, fp64 [2, d, d]."""
    generator = torch.Generator().manual_seed(d)
    a = torch.randn(2, rank, d, generator=generator, dtype=torch.float64)
    a *= torch.logspace(0, -3, rank, dtype=torch.float64).unsqueeze(-1)
    return a.mT @ a / rank


def check_matrices(d: int, rank: int, device: str) -> None:
    """Traces to 1e-11 for fp64, 4e-7 in the mode of fp32; nuclear norms and features to 1e-12."""
    s1, s2 = covariances(d, rank)
    there, trace = (s1.to(device), s2.to(device)), torch.ops.dgmkern.trace_sqrtm_product
    want = reference.frechet.trace_sqrtm_product(s1, s2, 1e-9)
    for rounding, allowed in ((1e-12, 1e-11), (1e-1, 4e-7)):
        torch.testing.assert_close(trace(*there, rounding).cpu(), want, rtol=allowed, atol=0)
    b = torch.randn(d, rank, dtype=torch.float64)
    norm = torch.linalg.svdvals(b).sum()
    torch.testing.assert_close(dgmkern.nuclear_norm(b.to(device)).cpu(), norm, rtol=1e-12, atol=0)
    x, y = torch.randn(2, rank, d, dtype=torch.float64)
    got = dgmkern.feature_frechet_distance(x.to(device), y.to(device)).cpu()
    torch.testing.assert_close(got, dgmkern.feature_frechet_distance(x, y), rtol=1e-12, atol=0)


def check_matrix_graph(d: int, device: str) -> None:
    """A CUDA graph captures traces, from fp64 and fp32 covariances, and follows new numbers."""
    s1, s2 = covariances(d, d).to(device)
    for dtype in (torch.float64, torch.float32):
        a, b = s1.to(dtype), s2.to(dtype)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            dgmkern.trace_sqrtm_product(a, b)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = dgmkern.trace_sqrtm_product(a, b)
        a.mul_(4)
        graph.replay()
        torch.testing.assert_close(captured, dgmkern.trace_sqrtm_product(a, b), rtol=0, atol=0)


def checks(device: str, fewer: bool) -> Iterator[tuple[str, Callable[[], None]]]:
    for case, dtype, shape in itertools.product(
        CASES, DTYPES[1:3] if fewer else DTYPES, SHAPES[::3] if fewer else SHAPES
    ):
        if case.fits(shape):
            name = f"{case} {str(dtype)[6:]} {shape}"
            yield name, lambda c=case, s=shape, d=dtype: check_accuracy(c, s, d, device)
    for case in CASES:
        if case.fits((4, 6, 5, 3)):
            yield f"{case} layouts", lambda c=case: check_layouts(c, device)
        if device != "cpu" and case.fits((6, 40)):
            yield f"{case} graph", lambda c=case: check_graph(c, device)
    for d, rank in ((20, 20), (100, 50), (150, 75), *(((1000, 300), (2048, 2048)) if device != "cpu" else ())):
        yield f"matrices float64 {d} of rank {rank}", lambda d=d, rank=rank: check_matrices(d, rank, device)
    if device != "cpu" and _library.FORCED == "triton":
        for d in (100, 500):
            yield f"matrices {d} graph", lambda d=d: check_matrix_graph(d, device)
    if device != "cpu" or _library.INTERPRETED or _library.EMULATED:
        yield "steps outside", lambda: check_steps_outside(device)


def main() -> int:
    """Run everything, whatever fails; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", choices=("cuda", "cpu"))
    parser.add_argument("--only", default="", help="checks whose names contain this")
    parser.add_argument("--fewer", action="store_true", help="two dtypes, a third of the shapes")
    options = parser.parse_args()
    passed, failed = 0, []
    for name, check in checks(options.device, options.fewer):
        if options.only not in name:
            continue
        try:
            check()
            passed += 1
        except Exception as error:
            failed.append(name)
            print(f"FAILED {name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}", flush=True)
            if len(failed) <= 3 and not isinstance(error, AssertionError):
                traceback.print_exc()
    print(f"{_library.FORCED} on {options.device}: {passed} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
