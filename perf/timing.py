"""Interleaved timing: calibrated loops, medians, quartiles and paired ratios. Knows nothing of cases."""

from __future__ import annotations

import gc
import itertools
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

MAX_INNER = 1 << 20


@dataclass(frozen=True)
class Plan:
    """How long to measure. Times in seconds."""

    rounds: int = 25
    min_rounds: int = 5
    min_sample: float = 2e-3  # a sample shorter than this measures the clock and the scheduler
    budget: float = 6.0  # of one interleaved measurement; fewer rounds where they would not fit
    first_call_limit: float = 120.0  # the call that compiles
    cold: bool = False

    def rounds_for(self, round_time: float) -> int:
        """Rounds that fit the budget, never fewer than `min_rounds`."""
        return max(self.min_rounds, min(self.rounds, int(self.budget / max(round_time, 1e-9))))


@dataclass(frozen=True)
class Subject:
    """Something to time: `call` does it once, under `threads` threads."""

    call: Callable[[], object]
    threads: int


@dataclass(frozen=True)
class Samples:
    """Seconds per call, one figure a round, each the mean of `inner` calls."""

    seconds: tuple[float, ...]
    inner: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        return quartiles(self.seconds)


def quartiles(values: tuple[float, ...]) -> tuple[float, float]:
    """First and third quartile, interpolated between order statistics (inclusive)."""
    if len(values) < 2:
        return values[0], values[0]
    q1, _, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return q1, q3


def paired_speedup(baseline: Samples, variant: Samples) -> tuple[float, tuple[float, float]]:
    """How many times faster `variant` is than `baseline`: median and quartiles of the ratio round by round.

    The two samples of a round lie milliseconds apart, so what slows the machine for a while cancels.
    """
    ratios = tuple(b / v for b, v in zip(baseline.seconds, variant.seconds, strict=True))
    return statistics.median(ratios), quartiles(ratios)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after `seconds`; does nothing outside the main thread or without SIGALRM."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def expire(signum: int, frame: object) -> None:
        raise TimeoutError(f"no result within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Stopwatch:
    """Times loops of one subject. `clock` and `synchronize` can be replaced: a fake clock, an accelerator's wait."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, synchronize: Callable[[], None] = lambda: None
    ) -> None:
        self.clock, self.synchronize = clock, synchronize

    @classmethod
    def of(cls, device: str) -> Stopwatch:
        """The stopwatch for work on `device`."""
        return cls(synchronize=torch.cuda.synchronize) if device.startswith("cuda") else cls()

    def loop(self, subject: Subject, calls: int, *, warm: bool) -> float:
        """Seconds that `calls` calls take. `warm` puts one untimed call before them."""
        call = subject.call
        if torch.get_num_threads() != subject.threads:
            torch.set_num_threads(subject.threads)
        if warm:
            call()
        self.synchronize()
        start = self.clock()
        for _ in itertools.repeat(None, calls):
            call()
        self.synchronize()
        return self.clock() - start

    def calibrate(self, subject: Subject, min_sample: float) -> tuple[int, float]:
        """How many calls make a sample of `min_sample` seconds, and what one call took."""
        calls = 1
        while True:
            elapsed = self.loop(subject, calls, warm=True)
            if elapsed >= min_sample or calls >= MAX_INNER:
                return calls, elapsed / calls
            # Aim 20% beyond the mark, and never trust one short measurement by more than a factor of 10.
            calls = min(MAX_INNER, calls * 10, max(calls + 1, int(1.2 * calls * min_sample / max(elapsed, 1e-9))))


def interleave(
    subjects: Mapping[str, Subject], plan: Plan, stopwatch: Stopwatch | None = None
) -> tuple[dict[str, Samples], dict[str, Exception]]:
    """Time the subjects in turns A B C, A B C, ...; returns samples by name, and what each failed subject raised.

    A subject that raises, or whose first call takes longer than the plan allows, drops out; the others go on.
    """
    stopwatch = stopwatch or Stopwatch()
    threads_before = torch.get_num_threads()
    alive, errors, inner, per_call = dict(subjects), {}, {}, {}

    def attempt(name: str, action: Callable[[], object]) -> object | None:
        try:
            return action()
        except Exception as error:
            errors[name] = error
            del alive[name]
            return None

    def first_call(subject: Subject) -> None:
        torch.set_num_threads(subject.threads)
        with time_limit(plan.first_call_limit):
            subject.call()

    try:
        for name, subject in subjects.items():
            attempt(name, lambda subject=subject: first_call(subject))
            if name in alive:
                found = attempt(name, lambda subject=subject: stopwatch.calibrate(subject, plan.min_sample))
                if found is not None:
                    inner[name], per_call[name] = found
        seconds: dict[str, list[float]] = {name: [] for name in alive}
        rounds = plan.rounds_for(sum((inner[name] + (not plan.cold)) * per_call[name] for name in alive))
        collecting = gc.isenabled()
        gc.disable()
        try:
            start = stopwatch.clock()
            for done in range(rounds):
                if done >= plan.min_rounds and stopwatch.clock() - start > plan.budget:
                    break  # the machine has become slower than calibration found it
                for name, subject in list(alive.items()):
                    elapsed = attempt(
                        name,
                        lambda name=name, subject=subject: stopwatch.loop(subject, inner[name], warm=not plan.cold),
                    )
                    if elapsed is not None:
                        seconds[name].append(elapsed / inner[name])
        finally:
            if collecting:
                gc.enable()
    finally:
        torch.set_num_threads(threads_before)
    return {name: Samples(tuple(seconds[name]), inner[name]) for name in alive}, errors
