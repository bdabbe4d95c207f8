"""Mode collapse as measured: the record is of the present settings, good enough, and what the script writes."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import perf
from perf.quality import gan_modes, gan_runs
from perf.quality.means import means

RECORDS = Path(perf.__file__).parent / "results" / "quality"
ALL = {"ring": 8, "grid": 25}


@pytest.fixture
def record(request):
    return json.loads((RECORDS / f"gan_modes_{request.param}.json").read_text())


@pytest.mark.parametrize("record", ALL, indirect=True)
def test_the_record_is_of_the_present_settings_and_its_means_are_those_of_its_runs(record):
    now = gan_modes.TRAIN, gan_modes.VARIANTS
    assert gan_runs.are_present(record["settings"], *now)
    assert list(record["settings"]["variants"]) == list(record["runs"])
    changed = {**record["settings"]["train"], "lr": 1.0}
    assert not gan_runs.are_present({**record["settings"], "train": changed}, *now)
    for name, runs in record["runs"].items():
        assert [run["seed"] for run in runs] == list(range(len(runs)))
        assert record["means"][name] == means(runs, gan_modes.FIGURES)
        for run in runs:
            assert run["high_quality"] == sum(run["counts"]) / gan_modes.SAMPLES
            assert run["modes"] == sum(count > 0 for count in run["counts"])


@pytest.mark.parametrize(("record", "modes"), ALL.items(), indirect=["record"])
def test_the_best_variant_covers_all_modes(record, modes):
    best = record["means"]["flat"]
    assert best["modes"] == modes
    assert best["high_quality"] >= 0.95


@pytest.mark.parametrize("problem", ALL)
def test_the_mixture_is_the_one_that_is_counted(problem):
    coverage = gan_modes.PROBLEMS[problem][0]()
    coverage.update(generated=gan_modes.mixture(coverage, 20000, seed=1))
    result = coverage.compute()
    assert result.modes == ALL[problem]
    assert result.high_quality == pytest.approx(0.9889, abs=0.003)  # 1 - exp(-9/2); standard deviation 0.0007
    mean = 20000 / ALL[problem]
    assert (result.counts - mean).abs().max() < 5 * mean**0.5


def test_a_second_call_goes_on_where_the_first_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gan_modes, "TRAIN", replace(gan_modes.TRAIN, steps=3, batch_size=8))
    calls, sound = [], gan_modes.measured

    def measured(problem, config, train, seed):
        calls.append((problem, seed))
        return sound(problem, config, train, seed)

    monkeypatch.setattr(gan_modes, "measured", measured)

    def run(seeds: int) -> dict:
        argv = ["gan_modes", "ring", str(tmp_path), "--seeds", str(seeds), "--variants", "packed-2", "wgan-gp"]
        monkeypatch.setattr(sys, "argv", argv)
        gan_modes.main()
        return json.loads((tmp_path / "gan_modes_ring.json").read_text())

    first, second = run(1), run(2)
    assert calls == [("ring", 0)] * 2 + [("ring", 1)] * 2
    assert [runs[:1] for runs in second["runs"].values()] == list(first["runs"].values())
    assert (tmp_path / "gan_modes_ring.png").stat().st_size > 1000
    assert "packed-2" in capsys.readouterr().out
    monkeypatch.setattr(gan_modes, "TRAIN", replace(gan_modes.TRAIN, lr=1.0))
    with pytest.raises(SystemExit):
        run(2)


def test_a_run_is_a_function_of_its_seed(monkeypatch):
    train = replace(gan_modes.TRAIN, steps=5, batch_size=8)
    torch.set_num_threads(1)
    a, b, c = (
        gan_modes.trained("grid", gan_modes.VARIANTS["flat"], train, seed).sample(4, seed=1) for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
