"""Run step cases: check, time in turns, relate to the baseline, the targets and the machine's rate of products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from perf.case import OURS, Setting
from perf.machine import CpuUse
from perf.measure import describe, is_noisy
from perf.report import duration, table
from perf.steps.case import StepCase
from perf.steps.worker import LIMITS, SIZE, Worker
from perf.timing import Plan, Samples, paired_speedup

# Seconds: asking a process takes 50 us, and the threads of the one before it look out for work for some milliseconds.
MIN_SAMPLE = 50e-3
HEADERS = ("case", "variant", "time of a step", "q1 .. q3", "vs base", "x limit", "target", "reached")
LEGEND = (
    "every variant in a process of its own, in turns; time: median; vs base: how many times faster than the first\n"
    "variant, median of paired ratios; x limit: time over that of the products and convolutions of dgmkern's step at\n"
    "the rate of a product of 2048 x 2048 matrices, in the precision of its network, measured in the same run"
)


@dataclass(frozen=True)
class StepResult:
    """One case: samples of the variants that ran, what the others raised, and the limit in seconds."""

    case: StepCase
    samples: Mapping[str, Samples]
    errors: Mapping[str, str]
    limit: float | None = None
    used_by_others: float | None = None

    @property
    def failed(self) -> bool:
        """Whether a step of ours failed or was wrong."""
        return any(name.startswith(OURS) for name in self.errors)


def take_turns(
    workers: Mapping[str, Worker], plan: Plan, per_call: int = 1
) -> tuple[dict[str, Samples], dict[str, str]]:
    """Time the workers in turns; seconds a step, where a call does `per_call` of them."""
    errors: dict[str, str] = {}
    alive = dict(workers)

    def attempt(name: str, action: Callable[[], float | None]) -> float | None:
        try:
            return action()
        except RuntimeError as error:
            errors[name] = describe(error)
            del alive[name]
            return None

    for name, worker in workers.items():
        attempt(name, worker.ready)  # all, before any is timed
    once = {name: attempt(name, lambda worker=worker: _seconds(worker, plan)) for name, worker in list(alive.items())}
    inner = {name: max(1, round(plan.min_sample / once[name])) for name in alive}
    taken: dict[str, list[float]] = {name: [] for name in alive}
    for _ in range(plan.rounds_for(sum(2 * once[name] * inner[name] for name in alive))):
        for name, worker in list(alive.items()):
            attempt(name, lambda name=name, worker=worker: worker.seconds(inner[name]))  # back into the caches
            if name in alive:
                second = attempt(name, lambda name=name, worker=worker: worker.seconds(inner[name]))
                taken[name] += [] if second is None else [second / inner[name] / per_call]
    return {name: Samples(tuple(taken[name]), inner[name]) for name in alive}, errors


def _seconds(worker: Worker, plan: Plan) -> float:
    """Of a step, from as many as make a sample: the first ones after a pause take up to four times as long."""
    steps = max(1, round(plan.min_sample / max(worker.seconds(1), 1e-6)))
    return max(worker.seconds(steps) / steps, 1e-6)


def time_workers(
    case: str, variants: Sequence[str], setting: Setting, plan: Plan, per_call: int = 1
) -> tuple[dict[str, Samples], dict[str, str]]:
    workers = {name: Worker(case, name, setting.threads) for name in variants}
    try:
        return take_turns(workers, plan, per_call)
    finally:
        for worker in workers.values():
            worker.close()


def rates(setting: Setting, plan: Plan) -> dict[str, float]:
    """FLOP/s of large products by precision."""
    samples, _ = time_workers("limit", LIMITS, setting, plan)
    return {name: 2 * SIZE**3 / sample.median for name, sample in samples.items()}


def run_case(case: StepCase, setting: Setting, plan: Plan, rate: Mapping[str, float]) -> StepResult:
    """Check the case, then time it. Never raises for what a variant does."""
    try:
        case.check()
    except Exception as error:
        return StepResult(case, {}, {OURS: describe(error)})
    use = CpuUse()
    samples, errors = time_workers(case.name, list(case.variants), setting, plan, case.steps)
    limit = case.flops() / rate[case.precision] if case.precision in rate else None
    return StepResult(case, samples, errors, limit, use.by_others())


def rows_of(result: StepResult) -> list[tuple[str, ...]]:
    """The rows of one case, and one more for each further target."""
    rows, samples = [], result.samples
    for name in result.case.variants:
        if name not in samples:
            rows.append((name, result.errors.get(name, "not timed"), "", "", "", "", ""))
            continue
        q1, q3 = samples[name].quartiles
        speedup = paired_speedup(samples[result.case.baseline], samples[name])[0]
        times = f"{samples[name].median / result.limit:.2f}" if result.limit else ""
        goals = [(str(t), _reached(t, result)) for t in result.case.targets if t.of == name] or [("", "")]
        median = duration(samples[name].median)
        rows.append((name, median, f"{duration(q1)} .. {duration(q3)}", f"{speedup:.2f}x", times, *goals[0]))
        rows += [("", "", "", "", "", *goal) for goal in goals[1:]]
    if result.limit:
        rows.append((f"limit, products in {result.case.precision}", duration(result.limit), "", "", "1.00", "", ""))
    return [(result.case.name if i == 0 else "", *row) for i, row in enumerate(rows)]


def _reached(target: Any, result: StepResult) -> str:
    if target.against not in result.samples:
        return "not timed"
    speedup, _ = paired_speedup(result.samples[target.against], result.samples[target.of])
    figure, met = target.reached(speedup)
    return f"{figure:.2f}x {'yes' if met else 'NO'}{'?' if is_noisy(result.used_by_others) else ''}"


def to_json(result: StepResult) -> dict[str, Any]:
    samples, case = result.samples, result.case
    return {
        "name": case.name,
        "precision": case.precision,
        "limit_seconds": result.limit,
        "used_by_others": result.used_by_others,
        "errors": dict(result.errors),
        "variants": {
            name: {
                "median": sample.median,
                "quartiles": sample.quartiles,
                "samples": list(sample.seconds),
                "speedup": paired_speedup(samples[case.baseline], sample)[0] if case.baseline in samples else None,
            }
            for name, sample in samples.items()
        },
        "targets": [{**asdict(t), "reached": _reached(t, result)} for t in case.targets if t.of in samples],
    }


def run(cases: Sequence[StepCase], setting: Setting, plan: Plan, *, markdown: bool = False) -> tuple[bool, dict]:
    """Time the cases and print their table; whether all of ours passed, and the JSON content."""
    plan = replace(plan, min_sample=max(plan.min_sample, MIN_SAMPLE))
    rate = rates(setting, plan)
    print(", ".join(f"products in {name}: {value / 1e9:.0f} GFLOP/s" for name, value in rate.items()), flush=True)
    results = [run_case(case, setting, plan, rate) for case in cases]
    print(table(HEADERS, [row for result in results for row in rows_of(result)], markdown=markdown))
    print("", LEGEND, sep="\n")
    for result in results:
        for name, error in result.errors.items():
            print(f"{result.case.name}, {name}: {error}")
        if is_noisy(result.used_by_others):
            print(f"{result.case.name}: other processes used {result.used_by_others:.0%} of the CPU meanwhile")
    return not any(result.failed for result in results), {
        "product_flops_per_second": rate,
        "steps": [to_json(result) for result in results],
    }
