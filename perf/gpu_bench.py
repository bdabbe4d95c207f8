"""The ops on a GPU, without tyro: large tensors beside the copy limit, small ones in CUDA graphs.

`python -m perf.gpu_bench cuda --out FILE`; cpu rehearses it on small tensors. Stops when its seconds are spent.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import dgmkern
from dgmkern import _library
from perf import machine, report, sweep
from perf.case import OURS, Case, Setting
from perf.limits import measure_normal_rate
from perf.measure import CaseResult, run_case
from perf.ops import frechet
from perf.timing import Plan

LARGE = 64_000_000
SMALL = (1, 3, 32, 32)
GRAPH_OPS = {  # (ours, the usual code) of one image and of a batch of latents
    "q_sample": (
        lambda i: dgmkern.q_sample(i["x"], i["t"], i["s"]),
        lambda i: i["a"] * i["x"] + i["b"] * torch.randn_like(i["x"]),
    ),
    "p_sample": (
        lambda i: dgmkern.p_sample(i["x"], i["x"], i["t"], i["s"]),
        lambda i: i["a"] * ((i["x"] - i["b"] * i["x"]) / i["a"]) + i["b"] * i["x"] + i["a"] * torch.randn_like(i["x"]),
    ),
    "gaussian_rsample_kl": (
        lambda i: dgmkern.gaussian_rsample_kl(i["m"], i["m"]),
        lambda i: (
            i["m"] + (0.5 * i["m"]).exp() * torch.randn_like(i["m"]),
            0.5 * (i["m"] ** 2 + i["m"].exp() - 1 - i["m"]).sum(1),
        ),
    ),
}


def large_cases(setting: Setting, elements: int) -> Iterator[Case]:
    for make in sweep.choose(setting).values():
        yield make(elements)


def matrix_cases(setting: Setting) -> Iterator[Case]:
    """One large matrix and many small ones, against eigenvalues of products."""
    names = ("/2048x2048/", "/batched/") if setting.device == "cuda" else ("/64x64/",)
    for case in frechet.cases(setting):
        if any(name in case.name for name in names):
            yield case


def small_inputs(device: str) -> dict[str, Any]:
    schedule = dgmkern.DiffusionSchedule.linear(1000)
    one = torch.ones(1, 1, 1, 1, device=device)
    return {
        "x": torch.randn(SMALL, device=device),
        "t": torch.tensor([500], device=device),
        "s": schedule,
        "m": torch.randn(128, 20, device=device),
        "a": 0.8 * one,
        "b": 0.6 * one,
    }


def replayed(function: Callable[[dict], Any], inputs: dict[str, Any]) -> tuple[float, int]:
    """Seconds of a replay of the graph of one call, and how many kernels it launches."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function(inputs)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        graph.replay()
        torch.cuda.synchronize()
    kernels = sum(e.count for e in profile.key_averages() if e.self_device_time_total > 0)
    rounds = []
    for _ in range(7):
        begin = time.perf_counter()
        for _ in range(500):
            graph.replay()
        torch.cuda.synchronize()
        rounds.append((time.perf_counter() - begin) / 500)
    return sorted(rounds)[3], kernels


def graphs(device: str) -> dict[str, dict[str, Any]]:
    """For each small op: microseconds of a replay and kernels of it, ours and the usual code's."""
    inputs, found = small_inputs(device), {}
    for name, functions in GRAPH_OPS.items():
        for who, function in zip((OURS, "eager"), functions, strict=True):
            try:
                seconds, kernels = replayed(function, inputs)
                found.setdefault(name, {})[who] = {"us": 1e6 * seconds, "kernels": kernels}
                print(f"graph of {name}, {who}: {1e6 * seconds:.2f} us, {kernels} kernels", flush=True)
            except Exception as error:
                print(f"graph of {name}, {who}: {type(error).__name__}: {error}", flush=True)
    return found


def main() -> int:
    """Time what the seconds allow; returns the exit code: 1 where a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", choices=("cuda", "cpu"))
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--without-peers", action="store_true", help="time only our variants and the first baseline")
    parser.add_argument("--once", action="store_true", help="call each op of ours once, for a profiler")
    options = parser.parse_args()
    began = time.perf_counter()
    setting = Setting(options.device, torch.get_num_threads(), dgmkern.cpu_capability())
    large = large_cases(setting, LARGE if options.device == "cuda" else 100_000)
    cases = itertools.chain(large, matrix_cases(setting))
    if options.once:
        for case in cases:
            case.variants[OURS].run(case.setup())
        return 0
    plan = Plan(rounds=9, min_rounds=3, budget=1.5, cold=True)
    stated = {"device": options.device, "threads": setting.threads, "cold": True, "allocator": "torch's"}
    stated["backend"] = _library.FORCED
    about = machine.machine(options.device), machine.versions(), stated
    rate = measure_normal_rate(setting, replace(plan, cold=False))
    print(report.heading(*about, rate), flush=True)
    small = graphs(options.device) if options.device == "cuda" else {}
    results: list[CaseResult] = []
    for case in cases:
        if time.perf_counter() - began > options.seconds:
            print("no time left for the other cases")
            break
        if options.without_peers:
            case = replace(case.without_compile(), targets=())
        results.append(run_case(case, setting, plan))
        print(report.case_table(results[-1:]), flush=True)
    if options.out:
        report.write_json(options.out, report.document(*about, rate, results, graphs=small))
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
