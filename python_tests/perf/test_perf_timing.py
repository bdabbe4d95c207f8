"""The clock work of the harness, on a clock that the tests advance by hand."""

import gc
import time

import numpy as np
import pytest
import torch

from perf.timing import Plan, Samples, Stopwatch, Subject, interleave, paired_speedup, time_limit


class FakeClock:
    """A clock that only its subjects advance. `slowdown` scales what a call costs."""

    def __init__(self):
        self.now = 0.0
        self.slowdown = 1.0
        self.calls = []

    def __call__(self):
        return self.now

    def subject(self, name, seconds, threads=1):
        def call():
            self.calls.append(name)
            self.now += seconds * self.slowdown

        return Subject(call, threads)


@pytest.fixture
def clock():
    return FakeClock()


def runs_of(calls):
    """Successive names without repeats: A A A B B A -> A B A."""
    return [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]


def test_variants_take_turns_round_by_round(clock):
    subjects = {name: clock.subject(name, cost) for name, cost in (("A", 5e-3), ("B", 7e-4), ("C", 3e-3))}
    samples, errors = interleave(subjects, Plan(rounds=6), Stopwatch(clock))
    assert not errors
    assert runs_of(clock.calls)[-18:] == ["A", "B", "C"] * 6
    assert all(len(sample.seconds) == 6 for sample in samples.values())


@pytest.mark.parametrize("cost", [1e-7, 2e-6, 3e-4, 1e-2])
def test_calibrated_samples_are_long_enough_and_the_time_per_call_is_exact(clock, cost):
    samples, _ = interleave({"A": clock.subject("A", cost)}, Plan(rounds=3, min_sample=2e-3), Stopwatch(clock))
    inner = samples["A"].inner
    assert inner * cost >= 2e-3 * (1 - 1e-9)
    assert inner == 1 or inner * cost <= 2e-2, "no more than ten times what was asked for"
    assert samples["A"].median == pytest.approx(cost, rel=1e-6)


def test_every_warm_sample_follows_an_untimed_call_and_no_cold_one_does(clock):
    for cold, untimed in ((False, 1), (True, 0)):
        clock.calls.clear()
        loop = Stopwatch(clock).loop(clock.subject("A", 1.0), 4, warm=not cold)
        assert loop == pytest.approx(4.0)
        assert len(clock.calls) == 4 + untimed


def test_paired_speedup_is_blind_to_a_machine_that_slows_down(clock):
    slow, fast = [], []
    for step in range(9):
        slowdown = 1 + step  # nine times slower in the end
        slow.append(6e-3 * slowdown)
        fast.append(1e-3 * slowdown)
    speedup, (q1, q3) = paired_speedup(Samples(tuple(slow), 1), Samples(tuple(fast), 1))
    assert speedup == pytest.approx(6.0)
    assert (q1, q3) == (pytest.approx(6.0), pytest.approx(6.0))


def test_paired_speedup_is_the_median_of_the_ratios():
    speedup, quartiles = paired_speedup(Samples((2.0, 9.0, 8.0), 1), Samples((1.0, 3.0, 2.0), 1))
    assert speedup == 3.0  # of 2, 3, 4; the ratio of medians would be 4
    assert quartiles == (2.5, 3.5)


def test_median_and_quartiles_equal_numpys():
    values = tuple(np.random.default_rng(0).random(12).tolist())
    sample = Samples(values, 1)
    assert sample.median == pytest.approx(np.median(values))
    assert sample.quartiles == pytest.approx(tuple(np.percentile(values, [25, 75])))


def test_a_subject_that_raises_drops_out_and_the_others_are_timed(clock):
    countdown = iter(range(1000))

    def fails_later():
        clock.now += 1e-2
        if next(countdown) == 5:
            raise ArithmeticError("now")

    def fails_at_once():
        raise KeyError("never")

    subjects = {
        "at once": Subject(fails_at_once, 1),
        "later": Subject(fails_later, 1),
        "good": clock.subject("good", 1e-2),
    }
    samples, errors = interleave(subjects, Plan(rounds=7), Stopwatch(clock))
    assert {name: type(error) for name, error in errors.items()} == {"at once": KeyError, "later": ArithmeticError}
    assert set(samples) == {"good"}
    assert len(samples["good"].seconds) == 7


def test_a_slow_variant_gets_fewer_rounds_within_the_budget(clock):
    samples, _ = interleave(
        {"slow": clock.subject("slow", 0.25)}, Plan(rounds=25, min_rounds=3, budget=4.0), Stopwatch(clock)
    )
    assert len(samples["slow"].seconds) == 8  # 0.5 s a round: the sample and the untimed call before it


def test_a_very_slow_variant_still_gets_the_fewest_rounds(clock):
    samples, _ = interleave({"slow": clock.subject("slow", 60.0)}, Plan(min_rounds=3, budget=1.0), Stopwatch(clock))
    assert len(samples["slow"].seconds) == 3


def test_the_budget_holds_when_the_machine_slows_down_after_calibration(clock):
    calls = iter(range(10_000))

    def call():
        clock.now += 1e-2 if next(calls) < 4 else 1.0

    samples, _ = interleave({"A": Subject(call, 1)}, Plan(rounds=100, min_rounds=3, budget=10.0), Stopwatch(clock))
    assert 3 <= len(samples["A"].seconds) <= 6
    assert clock.now < 14


def test_a_first_call_beyond_the_limit_is_a_timeout_of_that_variant_only(clock):
    subjects = {"stuck": Subject(lambda: time.sleep(30), 1), "good": clock.subject("good", 1e-2)}
    start = time.monotonic()
    samples, errors = interleave(subjects, Plan(rounds=2, first_call_limit=0.2), Stopwatch(clock))
    assert time.monotonic() - start < 20
    assert isinstance(errors["stuck"], TimeoutError)
    assert set(samples) == {"good"}


def test_time_limit_leaves_no_alarm_behind():
    with time_limit(0.05):
        pass
    time.sleep(0.1)  # an alarm left ticking would end the process here


def test_each_variant_runs_under_its_own_thread_count_and_the_old_one_returns(clock):
    before = torch.get_num_threads()
    seen = {1: set(), 2: set()}

    def recorder(threads):
        def call():
            seen[threads].add(torch.get_num_threads())
            clock.now += 1e-2

        return Subject(call, threads)

    try:
        torch.set_num_threads(1)
        interleave({"one": recorder(1), "two": recorder(2)}, Plan(rounds=3), Stopwatch(clock))
        assert seen == {1: {1}, 2: {2}}
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_garbage_collection_is_off_while_timing_and_on_again_afterwards(clock):
    states = []

    def call():
        states.append(gc.isenabled())
        clock.now += 1e-2

    assert gc.isenabled()
    interleave({"A": Subject(call, 1)}, Plan(rounds=2), Stopwatch(clock))
    assert states[-4:] == [False] * 4  # two rounds, each with its untimed call
    assert gc.isenabled()


def test_an_accelerator_is_waited_for_before_the_clock_is_read(clock):
    pending = []

    def launch():
        pending.append(1e-3)

    def synchronize():
        clock.now += sum(pending)
        pending.clear()

    elapsed = Stopwatch(clock, synchronize).loop(Subject(launch, 1), 5, warm=True)
    assert elapsed == pytest.approx(5e-3)  # the untimed call was waited for too
