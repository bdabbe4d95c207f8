"""`python -m perf` from end to end, on small case files of the tests' own."""

import json
import math
import textwrap
from dataclasses import replace

import pytest
import torch

import perf.__main__ as harness
import perf.measure
from perf.case import Case, Setting, Target, Variant
from perf.limits import NormalRate
from perf.machine import CpuUse
from perf.measure import ERROR, FAILED_CHECK, OK, CaseResult, run_case, run_quietest
from perf.report import case_json, case_table, duration
from perf.timing import Plan, Stopwatch, Subject

RATE = NormalRate(dgmkern=1e9, torch=4e8)
SETTING = Setting(threads=1)

HEADER = """
import torch
from perf.case import Case, Target, Variant

timed = []

def check(x, y):
    torch.testing.assert_close(y.double(), 2 * x.double())

def case(name, variants, **more):
    return Case(name, lambda: torch.linspace(-1, 1, 1000), variants, bytes_moved=8000, elements=1000, **more)
"""
DOUBLING = """
def cases(setting):
    return [
        case("double/good", {"eager": Variant(lambda x: x + x), "dgmkern": Variant(lambda x: 2 * x, check)},
             targets=(Target("eager", at_least=1e-6), Target("eager", at_most=1e-6))),
    ]
def sweeps(setting):
    return {"double": lambda n: Case(
        f"double/{n}", lambda: torch.ones(n),
        {"eager": Variant(lambda x: x + x), "dgmkern": Variant(lambda x: 2 * x, check)}, bytes_moved=8 * n, elements=n)}
"""
WRONG = """
def slightly_off(x):
    y = 2 * x
    y[-1] += 1e-3
    timed.append(1)
    return y
def cases(setting):
    return [case("wrong/off", {"eager": Variant(lambda x: x + x), "dgmkern": Variant(slightly_off, check)})]
"""
RAISING = """
def refuse(x):
    raise NotImplementedError("not on this machine\\nsecond line")
def cases(setting):
    return [case("raising/{}".format(who), {
        "eager": Variant(lambda x: x + x),
        "compile": Variant(refuse if who == "peer" else torch.clone),
        "dgmkern": Variant(refuse if who == "ours" else lambda x: 2 * x, check)}) for who in ("peer", "ours")]
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(files, *arguments) -> exit code, output, JSON document or None."""
    monkeypatch.setattr(harness, "measure_normal_rate", lambda setting, plan: RATE)
    monkeypatch.setattr(harness, "keep_freed_memory", lambda: True)  # malloc stays as the tests found it
    threads = torch.get_num_threads()

    def run(files, *arguments, quick=True):
        folder = tmp_path / "ops"
        folder.mkdir()
        for name, text in files.items():
            (folder / f"{name}.py").write_text(HEADER + textwrap.dedent(text))
        out = tmp_path / "result.json"
        mode = ["--quick"] if quick else []  # without torch.compile
        code = harness.main(["--threads", "1", "--out", str(out), *mode, *arguments], ops_folder=folder)
        captured = capsys.readouterr()
        return code, captured.out + captured.err, json.loads(out.read_text()) if out.exists() else None

    yield run
    torch.set_num_threads(threads)


def tensor_case(variants, **more):
    more = {"bytes_moved": 8000, "elements": 1000} | more
    return Case("case", lambda: torch.linspace(-1, 1, 1000), variants, **more)


def fake_limits(monkeypatch, now):
    """On the clock now[0]: any copy takes a millisecond, a thousand million normals a second."""

    def taking(seconds):
        def call():
            now[0] += seconds

        return lambda *_: Subject(call, 1)

    monkeypatch.setattr(perf.measure, "copy_subject", taking(1e-3))
    monkeypatch.setattr(perf.measure, "normals_subject", taking(perf.measure.NORMAL_ELEMENTS / 1e9))


def doubled(x, y):
    torch.testing.assert_close(y.double(), 2 * x.double())


def test_a_newcomer_adds_one_file_and_its_cases_run(run):
    code, output, document = run({"doubling": DOUBLING})
    assert code == 0
    (case,) = document["cases"]
    assert (case["name"], case["family"], case["status"]) == ("double/good", "doubling", OK)
    assert [row["name"] for row in case["variants"]] == ["eager", "dgmkern", "copy"]
    assert "double/good" in output


def test_a_wrong_kernel_is_refused_the_clock_and_the_exit_code_says_so(run, monkeypatch):
    timed = []
    interleave = perf.measure.interleave
    monkeypatch.setattr(perf.measure, "interleave", lambda s, *rest: timed.append([*s]) or interleave(s, *rest))
    code, output, document = run({"doubling": DOUBLING, "wrong": WRONG})
    assert code == 1
    assert "FAILED CHECK" in output
    assert timed == [["eager", "dgmkern", "copy"]], "only the good case may reach the clock"
    good, wrong = document["cases"]
    assert (good["status"], wrong["status"]) == (OK, FAILED_CHECK)
    assert wrong["variants"] == []
    assert "AssertionError" in wrong["message"]


def test_a_raising_rival_is_named_in_the_table_and_the_rest_goes_on(run):
    code, output, document = run({"raising": RAISING, "zdoubling": DOUBLING}, "raising/peer", "double", quick=False)
    assert code == 0
    assert "raising/peer, compile: NotImplementedError: not on this machine" in output
    peer, good = document["cases"]
    rows = {row["name"]: row for row in peer["variants"]}
    assert (rows["compile"]["status"], rows["compile"]["median"]) == (ERROR, None)
    assert rows["eager"]["median"] > 0
    assert rows["dgmkern"]["median"] > 0
    assert good["status"] == OK


def test_a_raising_kernel_of_ours_makes_the_exit_code_non_zero_but_stops_nothing(run):
    code, _output, document = run({"raising": RAISING, "zdoubling": DOUBLING}, "raising/ours", "double")
    assert code == 1
    ours, good = document["cases"]
    rows = {row["name"]: row for row in ours["variants"]}
    assert rows["dgmkern"]["error"] == "NotImplementedError: not on this machine"
    assert rows["eager"]["median"] > 0
    assert good["status"] == OK


def test_inputs_that_cannot_be_made_are_an_error_of_that_case():
    def setup():
        raise MemoryError("too large")

    result = run_case(Case("c", setup, {"eager": Variant(abs)}, 8, 1), SETTING, Plan())
    assert result.status == ERROR
    assert result.failed
    assert "MemoryError" in result.message


@pytest.mark.parametrize("break_it", ["nan", "inf", "shape", "unwritten"])
def test_checks_see_nan_infinity_shape_and_memory_that_was_never_written(break_it):
    def broken(x):
        if break_it == "unwritten":
            y = torch.empty_like(x)
            y[:-1] = 2 * x[:-1]
            return y
        y = 2 * x
        if break_it == "shape":
            return y[:-1]
        y[3] = math.nan if break_it == "nan" else math.inf
        return y

    case = tensor_case({"eager": Variant(lambda x: x + x), "dgmkern": Variant(broken, doubled)})
    assert run_case(case, SETTING, Plan()).status == FAILED_CHECK


def test_ratios_targets_and_distance_to_the_limit_on_a_fake_clock(monkeypatch):
    now = [0.0]

    def costs(seconds):
        def run(x):
            now[0] += seconds
            return 2 * x

        return run

    fake_limits(monkeypatch, now)
    case = tensor_case(
        {
            "eager": Variant(costs(12e-3), doubled),
            "dgmkern": Variant(costs(2e-3), doubled),
            "torch.add(out=)": Variant(costs(1.6e-3)),
            "dgmkern, 1 thread": Variant(costs(4e-3), doubled, threads=2),
        },
        normals=500_000,  # half a millisecond at 1e9 a second: the copy sets the limit
        targets=(
            Target("eager", at_least=6.5),
            Target("torch.add(out=)", at_most=1.3),
            Target("dgmkern", at_most=2.5, of="dgmkern, 1 thread"),
        ),
    )
    result = run_case(case, SETTING, Plan(rounds=5), Stopwatch(lambda: now[0]))
    rows = {row.name: row for row in result.variants}
    assert rows["eager"].speedup == pytest.approx(1.0)
    assert rows["dgmkern"].speedup == pytest.approx(6.0)
    assert (result.limit.seconds, result.limit.set_by) == (pytest.approx(1e-3), "copy")
    assert rows["dgmkern"].times_limit == pytest.approx(2.0)
    assert rows["copy"].times_limit == pytest.approx(1.0)
    assert rows["dgmkern, 1 thread"].times_limit is None, "the limit was measured with another thread count"
    reached = [(goal.reached, goal.met) for goal in result.targets]
    assert reached == [(pytest.approx(6.0), False), (pytest.approx(1.25), True), (pytest.approx(2.0), True)]
    assert [goal.text for goal in result.targets][:2] == [">= 6.5x eager", "<= 1.3x the time of torch.add(out=)"]
    table = case_table([result])
    assert "6.00x NO" in table
    assert "1.25x yes" in table


def test_normals_set_the_limit_where_drawing_them_takes_longer_than_the_copy(monkeypatch):
    now = [0.0]

    def cost(*_):
        now[0] += 1e-3

    fake_limits(monkeypatch, now)
    case = tensor_case({"eager": Variant(cost)}, normals=5_000_000)
    result = run_case(case, SETTING, Plan(rounds=3), Stopwatch(lambda: now[0]))
    assert (result.limit.seconds, result.limit.set_by) == (pytest.approx(5e-3), "normals")
    assert result.variants[0].times_limit == pytest.approx(0.2)


def test_a_target_whose_rival_failed_is_not_timed_rather_than_met():
    def broken(x):
        raise OSError

    case = tensor_case(
        {"eager": Variant(broken), "dgmkern": Variant(lambda x: 2 * x, doubled)}, targets=(Target("eager", 6.0),)
    )
    result = run_case(case, SETTING, Plan(rounds=2))
    assert (result.targets[0].reached, result.targets[0].met) == (None, None)
    assert "not timed" in case_table([result])


def test_json_has_the_documented_shape(run):
    _, _, document = run({"doubling": DOUBLING, "wrong": WRONG})
    assert document["schema"] == "dgmkern-perf/1"
    assert document["complete"] is True
    assert set(document) == {
        "schema", "time", "complete", "machine", "versions", "setting", "normals_per_second", "cases"
    }  # fmt: skip
    assert {"cpu", "cores", "caches", "capability", "architecture", "load_average"} <= set(document["machine"])
    assert set(document["versions"]) == {"python", "torch", "dgmkern", "commit"}
    assert set(document["setting"]) == {"device", "threads", "capability", "cold", "quick", "allocator"}
    assert document["setting"]["threads"] == 1
    for case in document["cases"]:
        assert set(case) == {
            "name", "family", "status", "message", "baseline", "elements", "bytes_moved", "normals", "used_by_others",
            "limit", "variants", "targets",
        }  # fmt: skip
    good = document["cases"][0]
    assert set(good["limit"]) == {"seconds", "set_by", "copy_seconds", "normal_seconds"}
    for row in good["variants"]:
        assert set(row) == {
            "name", "status", "error", "threads", "median", "quartiles", "inner", "samples", "speedup",
            "speedup_quartiles", "times_limit",
        }  # fmt: skip
        assert sorted(row["samples"])[len(row["samples"]) // 2] == row["median"]
        assert row["quartiles"][0] <= row["median"] <= row["quartiles"][1]
        assert row["inner"] * row["median"] > 1e-4
    met = {goal["target"]: goal["met"] for goal in good["targets"]}
    assert met == {">= 1e-06x eager": True, "<= 1e-06x the time of eager": False}


def test_a_failed_case_can_be_written_as_json():
    result = run_case(Case("c", lambda: 1 / 0, {"eager": Variant(abs)}, 8, 1), SETTING, Plan())
    assert json.loads(json.dumps(case_json(result)))["limit"] is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["no-such-case"], "no-such-case"),
        (["--filter", "nothing-has-this"], "nothing-has-this"),
        (["--budget", "0"], "--budget"),
        (["--threads", "0"], "--threads"),
        (["--sweep", "--demo"], "--demo and --sweep"),
        (["--train", "double"], "--train"),
        (["--device", "abacus"], "abacus"),
        (["--out", "/no/such/folder/x.json"], "/no/such/folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, arguments, named):
    code, output, document = run({"doubling": DOUBLING}, *arguments)
    assert code == 2
    assert len(output.strip().splitlines()) == 1
    assert named in output
    assert document is None


def test_list_names_the_cases_and_times_nothing(run):
    code, output, document = run({"doubling": DOUBLING, "wrong": WRONG}, "--list")
    assert code == 0
    assert output.split() == ["double/good", "wrong/off"]
    assert document is None


@pytest.mark.parametrize("pattern", ["double", "doubling", "double/good", "double/g*"])
def test_cases_are_chosen_by_family_name_beginning_or_glob(run, pattern):
    _, output, _ = run({"doubling": DOUBLING, "wrong": WRONG}, "--list", pattern)
    assert output.split() == ["double/good"]


def test_two_cases_of_one_name_are_refused(run):
    code, output, _ = run({"doubling": DOUBLING, "again": DOUBLING}, "--list")
    assert code == 2
    assert "double/good" in output


def test_a_sweep_stops_at_the_memory_it_was_given(run):
    code, output, document = run({"doubling": DOUBLING}, "--sweep", "--memory-gb", "0.001")
    assert code == 0
    assert [case["elements"] for case in document["cases"]] == [1_000, 10_000]
    assert "left out" in output
    assert "fits in" in output


def test_a_sweep_reports_a_kernel_that_falls_off_a_cliff(run):
    halting = DOUBLING.replace(
        "Variant(lambda x: 2 * x, check)}, bytes_moved=8 * n", "Variant(halting, check)}, bytes_moved=8 * n"
    )
    halting += """
import time
def halting(x):
    if x.numel() > 1000:
        time.sleep(1e-6 * x.numel())
    return 2 * x
"""
    _, output, document = run({"doubling": halting}, "--sweep", "--memory-gb", "0.001")
    assert "dgmkern: CLIFF" in output
    (climb,) = document["climbs"]["double"]
    assert (climb["is_cliff"], climb["smaller"], climb["larger"]) == (True, 1_000, 10_000)


def test_an_interrupted_run_writes_what_it_has(run, monkeypatch):
    original, left = perf.measure.run_case, [1]

    def interrupted(*args):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return original(*args)

    monkeypatch.setattr(perf.measure, "run_case", interrupted)
    code, _, document = run({"doubling": DOUBLING, "wrong": WRONG})
    assert code == 130
    assert document["complete"] is False
    assert len(document["cases"]) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.234, "1.23 s"), (9.211e-3, "9.21 ms"), (2.1e-5, "21.0 us"), (4.5e-4, "450 us"), (3e-9, "3 ns")],
)
def test_durations_have_three_digits_and_a_unit(seconds, text):
    assert duration(seconds) == text


def test_a_kernel_of_ours_cannot_be_declared_without_a_check():
    with pytest.raises(ValueError, match="no correctness check"):
        tensor_case({"eager": Variant(abs), "dgmkern": Variant(abs)})


def test_a_case_must_have_its_baseline_and_the_variants_of_its_targets():
    with pytest.raises(ValueError, match="baseline"):
        tensor_case({"other": Variant(abs)})
    with pytest.raises(ValueError, match=r"torch\.add"):
        tensor_case({"eager": Variant(abs)}, targets=(Target("torch.add", at_most=1.3, of="eager"),))
    with pytest.raises(ValueError, match="one of"):
        Target("eager")


def test_cold_runs_rotate_through_enough_inputs_to_miss_the_last_cache(monkeypatch):
    monkeypatch.setattr(perf.measure, "caches", lambda: {"L1": 1 << 10, "L2": 1 << 14})
    assert (perf.measure.copies_for_cold(1 << 12) - 1) * (1 << 12) >= 4 << 14
    made, used = [], []

    def setup():
        made.append(torch.ones(1024))
        return made[-1]

    case = Case("c", setup, {"eager": Variant(lambda x: used.append(x.data_ptr()))}, bytes_moved=1 << 12, elements=1024)
    run_case(case, SETTING, Plan(rounds=2, min_sample=1e-5, cold=True))
    assert len(made) == perf.measure.copies_for_cold(1 << 12)
    turns = used[: 2 * len(made)]
    assert turns[: len(made)] == [x.data_ptr() for x in made]
    assert turns[len(made) :] == turns[: len(turns) - len(made)]


def test_a_disturbed_case_is_repeated_and_the_quietest_run_counts(monkeypatch):
    case = tensor_case({"eager": Variant(lambda x: x + x)})
    loads = iter([0.5, 0.3, 0.4, 0.0])
    monkeypatch.setattr(perf.measure, "run_case", lambda *_: CaseResult(case, OK, used_by_others=next(loads)))
    assert run_quietest(case, SETTING, Plan(), retries=2).used_by_others == 0.3
    assert run_quietest(case, SETTING, Plan(), retries=9).used_by_others == 0.0


def test_a_repeated_case_that_fails_its_check_is_not_outvoted_by_an_earlier_run(monkeypatch):
    case = tensor_case({"eager": Variant(lambda x: x + x)})
    results = iter([CaseResult(case, OK, used_by_others=0.5), CaseResult(case, FAILED_CHECK, "wrong")])
    monkeypatch.setattr(perf.measure, "run_case", lambda *_: next(results))
    assert run_quietest(case, SETTING, Plan(), retries=3).failed


def test_figures_of_a_disturbed_machine_carry_a_question_mark():
    case = tensor_case({"eager": Variant(lambda x: x + x), "dgmkern": Variant(lambda x: 2 * x, doubled)})
    case = replace(case, targets=(Target("eager", at_least=1e-9),))
    result = run_case(case, SETTING, Plan(rounds=2))
    assert "yes?" not in case_table([replace(result, used_by_others=0.0)])
    noisy = case_table([replace(result, used_by_others=0.5)])
    assert "yes?" in noisy
    assert "other processes used 50% of the CPU" in noisy


def test_cpu_use_is_what_is_neither_idle_nor_ours(monkeypatch):
    # seconds: total, busy, ours; two cores for ten seconds, one of them busy, a quarter of that with our work
    readings = iter([(1000.0, 400.0, 7.0), (1020.0, 410.0, 9.5)])
    monkeypatch.setattr(CpuUse, "_read", staticmethod(lambda: next(readings)))
    assert CpuUse().by_others() == pytest.approx(7.5 / 20)
