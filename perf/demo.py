"""The table that `make demo` ends with: each fused op against its rivals and the limit, and training throughput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from perf import train
from perf.case import OURS, Case, Setting
from perf.measure import OK, CaseResult, run_quietest
from perf.report import duration, notes, table
from perf.timing import Plan, paired_speedup

CASES = {
    "q_sample/drawn/256x3x64x64/fp32": "q_sample, noise drawn",
    "q_sample/given/256x3x64x64/fp32": "q_sample, noise given",
    "gaussian_rsample_kl/backward/4096x256/fp32": "rsample + KL, forward + backward",
    "gaussian_rsample_kl/backward/128x20/fp32": "the same, 128 x 20",
}
COMPILED = ("compile", "compile fallback_random")
HEADERS = ("op", "eager", "compile", "compile*", "dgmkern", "vs eager", "vs compile", "copy", "limit", "x limit")
LEGEND = (
    "medians of interleaved runs; compile* = torch.compile with fallback_random (vs compile: against the faster one);\n"
    "copy = copying as many bytes as the op must move; limit = the later of that and of drawing the normals it needs"
)


def run(
    setting: Setting, plan: Plan, cases: Mapping[str, Case], retries: int = 0, *, markdown: bool = False
) -> tuple[list[CaseResult], dict[str, Any]]:
    """Time the demo's cases and the training; print both tables; return the results and further JSON content."""
    plan = replace(plan, rounds=21, budget=min(plan.budget, 4.0), first_call_limit=40.0)
    results = [run_quietest(cases[name], setting, plan, retries) for name in CASES]
    print(op_table(results, markdown=markdown))
    print("\n".join(["", LEGEND, *(line for result in results for line in notes(result)), ""]), flush=True)
    training = train.run(setting, replace(train.PLAN, budget=15.0), markdown=markdown)
    return results, {"training": training}


def op_table(results: Sequence[CaseResult], *, markdown: bool = False) -> str:
    """One row per op; an op whose check failed says so and has no times."""
    return table(HEADERS, [op_row(result) for result in results], markdown=markdown, left=1)


def op_row(result: CaseResult) -> tuple[str, ...]:
    name = CASES.get(result.case.name, result.case.name)
    if result.status != OK:
        return (name, result.status.upper(), *[""] * (len(HEADERS) - 2))
    rows = {row.name: row for row in result.variants}
    samples = {name: row.samples for name, row in rows.items() if row.samples is not None}

    def time(variant: str) -> str:
        if variant in samples:
            return duration(samples[variant].median)
        return rows[variant].error.split(":", 1)[0] if variant in rows else "-"

    def faster_than(rivals: Sequence[str]) -> str:
        """The ratio to the fastest of the rivals that ran."""
        ran = [samples[rival] for rival in rivals if rival in samples]
        if not ran or OURS not in samples:
            return "-"
        best = min(ran, key=lambda sample: sample.median)
        return f"{paired_speedup(best, samples[OURS])[0]:.2f}x"

    distance = rows[OURS].times_limit
    return (
        name,
        time("eager"),
        *(time(variant) for variant in COMPILED),
        time(OURS),
        faster_than(["eager"]),
        faster_than(COMPILED),
        duration(result.limit.copy_seconds),
        duration(result.limit.seconds),
        f"{distance:.2f}" if distance is not None else "-",
    )
