"""The verdict of a sweep: what is a cliff, and what the end of a cache explains."""

import json

import pytest

import perf.cliffs
from perf.case import Case, Variant
from perf.cliffs import steepest, verdicts
from perf.measure import COPY, ERROR, FAILED_CHECK, OK, CaseResult, VariantResult
from perf.timing import Samples

SIZES = [10**k for k in range(3, 9)]
FLAT = [1.0] * 6


@pytest.fixture(autouse=True)
def _caches(monkeypatch):
    monkeypatch.setattr(perf.cliffs, "caches", lambda: {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20})


def result(elements, nanoseconds, noisy=False, **more):
    """A size at which each variant takes so many nanoseconds per element; None: it raised."""
    case = Case("c", lambda: None, {"eager": Variant(abs)}, bytes_moved=8 * elements, elements=elements)
    rows = tuple(
        VariantResult(name, ERROR, 1, error="no")
        if ns is None
        else VariantResult(name, OK, 1, None, Samples((0.9e-9 * ns * elements, 1e-9 * ns * elements, 1.0), 1))
        for name, ns in nanoseconds.items()
    )
    return CaseResult(case, **({"status": OK, "variants": rows, "used_by_others": 0.5 * noisy} | more))


def sweep(ours, copy=FLAT, noisy=()):
    return [
        result(n, {"eager": 9.0, "dgmkern": a, COPY: b}, n in noisy) for n, a, b in zip(SIZES, ours, copy, strict=False)
    ]


@pytest.mark.parametrize(
    ("ours", "copy"),
    [
        (FLAT, FLAT),
        ([30.0, 4.0, 1.2, 1.0, 1.0, 1.0], [9.0, 1.5, 0.5, 0.5, 0.5, 0.5]),  # start-up wears off
        ([1, 1, 1, 1, 3, 3], [0.8, 0.8, 0.8, 0.8, 2.8, 2.8]),  # memory is slower, for a copy too
        ([1, 1, 1, 1, 1.4, 1.4], FLAT),  # within what medians tell
        ([1, 1, 1, 1, 1, 1], [0.1, 0.1, 0.1, 0.1, 0.1, 0.9]),  # set by arithmetic, not by memory
    ],
)
def test_no_cliff(ours, copy):
    climb = steepest(sweep(ours, copy), "dgmkern")
    assert not climb.is_cliff
    assert "no cliff" in str(climb)


@pytest.mark.parametrize(
    ("ours", "copy", "smaller", "larger", "unexplained"),
    [
        ([1, 1, 1, 2, 2, 2], FLAT, 1e5, 1e6, 2.0),
        ([1, 1, 1, 1, 6, 6], [0.5, 0.5, 0.5, 0.5, 2.5, 2.5], 1e6, 1e7, 2.0),  # the copy explains half of it
        # set by arithmetic: that a copy takes four times as long there explains little
        ([1, 1, 1, 1, 2.2, 2.2], [0.1 / 3, 0.1 / 3, 0.1 / 3, 0.1 / 3, 0.4 / 3, 0.4 / 3], 1e6, 1e7, 2.0),
        ([30, 4, 1, 2, 1, 1], FLAT, 1e5, 1e6, 2.0),  # at one size only, as where a stride meets a cache's sets
        ([1, 1.2, 1.44, 1.73, 2.07, 2.07], FLAT, 1e3, 1e7, 2.07),  # little by little
        # the copy's own start-up, 50 times as long per element, excuses nothing
        ([1, 2, 2, 2, 2, 2], [5, 0.5, 0.1, 0.1, 0.1, 0.1], 1e3, 1e4, 2.0),
    ],
)
def test_a_cliff_and_where_it_is(ours, copy, smaller, larger, unexplained):
    climb = steepest(sweep(ours, copy), "dgmkern")
    assert climb.is_cliff
    assert (climb.smaller, climb.larger) == (smaller, larger)
    assert climb.unexplained == pytest.approx(unexplained)


def test_the_verdict_says_which_sizes_how_much_and_which_caches():
    text = str(steepest(sweep([1, 1, 1, 1, 6, 6], [0.5, 0.5, 0.5, 0.5, 2.5, 2.5]), "dgmkern"))
    assert text == (
        "dgmkern: CLIFF; the steepest: 1.000 ns per element at 1e+06 (L3), 6.000 at 1e+07 (memory), where "
        "3.000 would be linear with what a copy loses"
    )


@pytest.mark.parametrize(("noisy", "mark"), [((), "CLIFF;"), ((10**6,), "CLIFF?;"), ((10**8,), "CLIFF;")])
def test_a_cliff_measured_on_a_busy_machine_carries_a_question_mark(noisy, mark):
    assert mark in str(steepest(sweep([2, 2, 1, 2, 2, 1], noisy=noisy), "dgmkern"))


def test_only_variants_of_ours_are_judged_and_each_by_itself():
    rows = [
        result(n, {"eager": n, "dgmkern": 1.0, "dgmkern, 1 thread": slow, COPY: 1.0})
        for n, slow in zip(SIZES, [1, 1, 1, 1, 5, 5], strict=True)
    ]
    assert [(climb.variant, climb.is_cliff) for climb in verdicts(rows)] == [
        ("dgmkern", False),
        ("dgmkern, 1 thread", True),
    ]


def test_sizes_without_a_time_are_passed_over():
    rows = sweep([1, 1, 1, 1, 1, 3])
    rows[1] = result(SIZES[1], {}, status=FAILED_CHECK, message="wrong")
    rows[5] = result(SIZES[5], {"dgmkern": None, COPY: 1.0})
    assert not steepest(rows, "dgmkern").is_cliff
    assert steepest(rows[:1], "dgmkern") is None
    assert verdicts(rows[1:2]) == []


def test_the_order_of_the_results_plays_no_part():
    rows = sweep([1, 1, 2, 2, 2, 2])
    assert steepest(rows[::-1], "dgmkern") == steepest(rows, "dgmkern")


def test_a_verdict_can_be_written_as_json():
    (climb,) = verdicts(sweep([1, 1, 1, 2, 2, 2]))
    written = json.loads(json.dumps(climb.to_json()))
    assert written["is_cliff"] is True
    assert written["unexplained"] == 2.0
    assert written["fits_in"] == ["L2", "L3"]
