"""Run one case: check its kernels, refuse or time it, and relate the times to eager, the targets and the limit."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from perf.case import OURS, Case, Setting, Variant
from perf.checks import CHECK_SEED
from perf.limits import NORMAL_ELEMENTS, Limit, copy_subject, normals_subject
from perf.machine import CpuUse, caches
from perf.timing import Plan, Samples, Stopwatch, Subject, interleave, paired_speedup, time_limit

COPY, NORMALS = "copy", "normals"
DEFAULT_LAST_CACHE = 32 << 20
MAX_COLD_BYTES, MAX_COLD_COPIES = 2 << 30, 4096

NOISY = 0.1  # share of all cores taken by others
OK, FAILED_CHECK, ERROR = "ok", "failed check", "error"


def is_noisy(used_by_others: float | None) -> bool:
    """Whether other processes took so much of the machine that figures mean little."""
    return used_by_others is not None and used_by_others > NOISY


@dataclass(frozen=True)
class TargetResult:
    """A target, the figure reached and whether it is met; `reached` is None where a variant it names has no time."""

    of: str
    text: str
    reached: float | None
    met: bool | None


@dataclass(frozen=True)
class VariantResult:
    """One row: times per call in seconds, speed-up over the baseline (paired by round), distance to the limit."""

    name: str
    status: str
    threads: int
    error: str | None = None
    samples: Samples | None = None
    speedup: float | None = None
    speedup_quartiles: tuple[float, float] | None = None
    times_limit: float | None = None


@dataclass(frozen=True)
class CaseResult:
    """One case: status "ok", "failed check" (nothing was timed) or "error" (its inputs could not be made)."""

    case: Case
    status: str
    message: str | None = None
    limit: Limit | None = None
    variants: tuple[VariantResult, ...] = ()
    targets: tuple[TargetResult, ...] = ()
    used_by_others: float | None = None  # share of all cores that other processes took while the case was timed

    @property
    def noisy(self) -> bool:
        """Whether the machine was too busy with other work."""
        return is_noisy(self.used_by_others)

    @property
    def failed(self) -> bool:
        """Whether the run must end with a non-zero exit code: a wrong kernel, or one of ours that raised."""
        ours_raised = any(row.status != OK and row.name.startswith(OURS) for row in self.variants)
        return self.status != OK or ours_raised


def describe(error: BaseException) -> str:
    """Class and first line of the message, of bounded length."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:160]}" if text else type(error).__name__


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill what torch allocates without initializing it with NaN, so that an element no kernel wrote shows."""
    filled = torch.utils.deterministic.fill_uninitialized_memory
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def check(case: Case, inputs: Any, limit_seconds: float) -> tuple[str | None, dict[str, Exception]]:
    """Run every checked variant once: what is wrong with the first wrong one, and what the raising ones raised."""
    errors: dict[str, Exception] = {}
    for name, variant in case.variants.items():
        if variant.check is None:
            continue
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(CHECK_SEED)
            try:
                with poisoned_memory(), time_limit(limit_seconds):
                    output = variant.run(inputs)
            except Exception as error:
                errors[name] = error
                continue
            try:
                variant.check(inputs, output)
            except Exception as error:
                return f"{name}: {describe(error)}", errors
    return None, errors


def copies_for_cold(bytes_moved: int, device: str = "cpu") -> int:
    """Sets of inputs to rotate through so that none is still in the last cache when its turn comes again."""
    last = max(caches().values(), default=DEFAULT_LAST_CACHE)
    if device.startswith("cuda"):
        last = torch.cuda.get_device_properties(device).L2_cache_size
    wanted = 1 + -(-4 * last // max(bytes_moved, 1))
    return max(2, min(wanted, MAX_COLD_COPIES, MAX_COLD_BYTES // max(bytes_moved, 1)))


def rotating(variant: Variant, sets: list[Any]) -> Callable[[], Any]:
    """A call of the variant without arguments, on the next set of inputs each time."""
    run = variant.run
    if len(sets) == 1:
        only = sets[0]
        return lambda: run(only)
    turn = itertools.cycle(sets)
    return lambda: run(next(turn))


def run_case(case: Case, setting: Setting, plan: Plan, stopwatch: Stopwatch | None = None) -> CaseResult:
    """Check the case, then time it. Never raises for what a variant does."""
    torch._dynamo.reset()  # compiled code of another case must not make this one's shapes dynamic
    try:
        torch.manual_seed(CHECK_SEED)
        inputs = case.setup()
    except Exception as error:
        return CaseResult(case, ERROR, f"setup: {describe(error)}")
    wrong, errors = check(case, inputs, plan.first_call_limit)
    if wrong is not None:
        return CaseResult(case, FAILED_CHECK, wrong)

    copies = copies_for_cold(case.bytes_moved, setting.device) if plan.cold else 1
    sets = [inputs, *(case.setup() for _ in range(copies - 1))]
    subjects = {
        name: Subject(rotating(variant, sets), variant.threads or setting.threads)
        for name, variant in case.variants.items()
        if name not in errors
    }
    subjects[COPY] = copy_subject(case.bytes_moved, setting, copies)
    if case.normals:
        subjects[NORMALS] = normals_subject(setting)
    use = CpuUse()
    samples, raised = interleave(subjects, plan, stopwatch or Stopwatch.of(setting.device))
    used_by_others = use.by_others()
    for name in (COPY, NORMALS):
        if name in raised:
            return CaseResult(case, ERROR, f"measuring the limit, {name}: {describe(raised[name])}")
    errors |= raised
    normal_seconds = samples[NORMALS].median * case.normals / NORMAL_ELEMENTS if case.normals else 0.0
    limit = Limit(samples[COPY].median, normal_seconds)
    rows = tuple(row_of(name, case, setting, samples, errors.get(name), limit) for name in (*case.variants, COPY))
    return CaseResult(case, OK, None, limit, rows, tuple(reach(case, samples)), used_by_others)


def run_quietest(case: Case, setting: Setting, plan: Plan, retries: int) -> CaseResult:
    """The result of the case, repeated up to `retries` times while other processes disturb it."""
    best = run_case(case, setting, plan)
    for _ in range(retries):
        if not best.noisy:
            break
        again = run_case(case, setting, plan)
        if again.status != OK:
            return again
        best = min(best, again, key=lambda result: result.used_by_others or 0.0)
    return best


def row_of(
    name: str, case: Case, setting: Setting, samples: dict[str, Samples], error: Exception | None, limit: Limit
) -> VariantResult:
    """The row of variant `name`."""
    threads = (case.variants[name].threads if name in case.variants else None) or setting.threads
    if error is not None:
        return VariantResult(name, ERROR, threads, error=describe(error))
    speedup, spread = (
        paired_speedup(samples[case.baseline], samples[name]) if case.baseline in samples else (None, None)
    )
    # the limit was measured at the run's thread count and says nothing about another
    times_limit = samples[name].median / limit.seconds if threads == setting.threads else None
    return VariantResult(name, OK, threads, None, samples[name], speedup, spread, times_limit)


def reach(case: Case, samples: dict[str, Samples]) -> Iterator[TargetResult]:
    """The case's targets with what was reached, from ratios paired by round."""
    for target in case.targets:
        if target.of in samples and target.against in samples:
            speedup, _ = paired_speedup(samples[target.against], samples[target.of])
            yield TargetResult(target.of, str(target), *target.reached(speedup))
        else:
            yield TargetResult(target.of, str(target), None, None)
