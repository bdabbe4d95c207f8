"""Quality of the DDPM as measured: the record is of the present settings, good enough, and what the script writes."""

import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import perf
from dgmkern.metrics import FeatureStats
from perf.quality import ddpm_mnist

RECORD = Path(perf.__file__).parent / "results" / "quality" / "ddpm_mnist.json"

HALVES = "frechet_distances_from_a_half"


def consistent(record: dict) -> None:
    """What the file says twice is the same."""
    for run in record["runs"].values():
        for found in run["bits_per_dim"].values():
            each = found["of_each_image"]
            assert len(each) == record["settings"]["images"]
            total = found["bits_per_dim"]
            assert total == pytest.approx(statistics.fmean(each), abs=1e-5)
            assert found["bits_per_dim_standard_error"] == pytest.approx(
                statistics.stdev(each) / math.sqrt(len(each)), abs=1e-5
            )
            assert total == pytest.approx(found["L_0"] + found["L_1_to_T-1"] + found["L_T"], rel=1e-9)
            assert found["L_0"] == pytest.approx(found["terms"][0], rel=1e-5)
            assert found["L_1_to_T-1"] == pytest.approx(math.fsum(found["terms"][1:]), rel=1e-5)
    assert record["differences"] == ddpm_mnist.differences(record["runs"])
    *floors, half = (found["n"] for found in record["floors"].values())
    counts = [found["n"] for run in record["runs"].values() for found in run["frechet_distances"].values()]
    assert {real for _, real in floors + counts} == {counts[0][1]}
    assert {drawn for drawn, _ in counts} == {floors[0][0]} == {record["settings"]["samples"]}
    assert sum(half) == sum(floors[0])
    assert abs(half[0] - half[1]) <= 1
    for run in record["runs"].values():
        assert all(found["n"] == half for found in run.get(HALVES, {}).values())


@pytest.fixture
def record():
    return json.loads(RECORD.read_text())


def test_the_record_is_of_the_present_settings_and_consistent(record):
    assert ddpm_mnist.are_present(record["settings"])
    changed = json.loads(json.dumps(record["settings"]))
    changed["runs"]["short"]["train"]["lr"] = 1.0
    assert not ddpm_mnist.are_present(changed)
    assert set(record["runs"]) <= set(ddpm_mnist.RUNS)
    for name, run in record["runs"].items():
        assert run["training"]["steps"] == record["settings"]["runs"][name]["train"]["steps"]
    consistent(record)


def test_a_learned_variance_has_fewer_bits_than_both_fixed_ones_and_training_brings_samples_nearer(record):
    for variance in ("fixed_small", "fixed_large"):
        for chain in ("", ", 50 steps"):
            less = record["differences"][f"learned (learned_range{chain}) - short ({variance}{chain})"]
            assert less["mean"] < -3 * less["standard_error"]
    (fixed, short) = (record["runs"][name]["frechet_distances"]["dpm-solver-20"] for name in ("fixed", "short"))
    assert fixed["value"] < short["value"] - 5 * math.hypot(fixed["standard_error"], short["standard_error"])
    assert fixed["classes"] == 10


def test_the_best_samples_are_within_three_times_the_floor(record):
    best = min(record["runs"]["classes"]["frechet_distances"].values(), key=lambda found: found["value"])
    assert best["value"] < 3 * record["floors"]["train"]["value"]
    assert best["value"] < record["floors"]["test"]["value"]
    assert best["classes"] == 10
    assert best["reverse_kl_of_classes"] < 1e-3
    best = min(found["value"] for found in record["runs"]["classes"][HALVES].values())
    assert best < 3 * record["floors"]["half of train, from the other half"]["value"]


def test_fused_and_eager_reach_the_same_at_equal_steps(record):
    """Means over three seeds, as far apart as the spread between seeds allows."""
    runs = record["runs"]
    for figure in (
        lambda run: run["bits_per_dim"]["fixed_small"]["bits_per_dim"],
        lambda run: run["frechet_distances"]["dpm-solver-20"]["value"],
    ):
        fused, eager = ([figure(runs[name]) for name in names] for names in zip(*ddpm_mnist.PAIRS.items(), strict=True))
        error = math.sqrt((statistics.variance(fused) + statistics.variance(eager)) / len(fused))
        assert abs(statistics.fmean(fused) - statistics.fmean(eager)) < 3 * error, (fused, eager)


def test_a_second_call_measures_only_what_is_missing(tmp_path, monkeypatch, capsys, classifier_cache):
    monkeypatch.setenv("DGMKERN_CACHE", str(classifier_cache))
    tiny = replace(ddpm_mnist.MODEL, channels=8, multipliers=(1, 2), head_dim=16, timesteps=8)
    runs = {name: (model, train and {**train, "steps": 2}) for name, (model, train) in ddpm_mnist.RUNS.items()}
    runs["classes"] = ({"classes": 10}, {"steps": 2})
    runs = {name: runs[name] for name in ("fixed", "short", "learned", "eager", "classes", "short-1", "eager-1")}
    for name, value in {
        "DATA": "digits",
        "SHAPE": (1, 8, 8),
        "MODEL": tiny,
        "TRAIN": replace(ddpm_mnist.TRAIN, steps=4, batch_size=8, precision="fp32"),
        "RUNS": runs,
        "PAIRS": {"short": "eager", "short-1": "eager-1"},
        "SAMPLERS": {"ddpm-8": {}, "dpm-solver-3": {"sampler": "dpm-solver", "steps": 3}},
        "SAMPLES": 200,
        "IMAGES": 4,
        "CHAINS": (None, 3),
    }.items():
        monkeypatch.setattr(ddpm_mnist, name, value)
    eager, sampled = [], []
    use_eager_loss, drawn = ddpm_mnist.use_eager_loss, ddpm_mnist.drawn

    def use_and_note(trainer):
        eager.append(trainer.config.train.seed)
        use_eager_loss(trainer)

    def draw_and_note(model, n, sampler):
        sampled.append((model.config.variance, n, sampler))
        return drawn(model, n, sampler)

    monkeypatch.setattr(ddpm_mnist, "use_eager_loss", use_and_note)
    monkeypatch.setattr(ddpm_mnist, "drawn", draw_and_note)

    def run(*arguments: str) -> dict:
        monkeypatch.setattr(sys, "argv", ["ddpm_mnist", str(tmp_path), *arguments])
        ddpm_mnist.main()
        return json.loads((tmp_path / "ddpm_mnist.json").read_text())

    first = run("--runs", "short", "learned", "--samplers", "ddpm-8")
    assert eager == []
    assert first["differences"].keys() == {
        f"learned (learned_range{chain}) - short ({variance}{chain})"
        for chain in ("", ", 3 steps")
        for variance in ("fixed_small", "fixed_large")
    }
    lengths = {name: len(found["terms"]) for name, found in first["runs"]["learned"]["bits_per_dim"].items()}
    assert lengths == {"learned_range": 8, "learned_range, 3 steps": 3}
    sampled.clear()
    second = run()
    assert eager == [0, 1]
    measured = [call for call in sampled if call[1] == 200]
    both = ["ddpm-8", "dpm-solver-3"]
    assert [sampler for _, _, sampler in measured] == [*both, "dpm-solver-3", "dpm-solver-3", *4 * both]  # fixed first
    assert {name: run["training"]["steps"] for name, run in second["runs"].items()} == {
        name: 4 if name == "fixed" else 2 for name in runs
    }
    assert sum(key.startswith("eager") for key in second["differences"]) == 4  # 2 seeds, 2 lengths of the chain
    for name, run_of_first in first["runs"].items():
        for kind in ("bits_per_dim", "frechet_distances"):
            for key, found in run_of_first[kind].items():
                assert second["runs"][name][kind][key] == found
    short, eagerly = (second["runs"][name] for name in ("short", "eager"))
    assert short["bits_per_dim"]["fixed_small"]["terms"] != eagerly["bits_per_dim"]["fixed_small"]["terms"]
    other = second["runs"]["short-1"]["bits_per_dim"]["fixed_small"]
    assert other["of_each_image"] != short["bits_per_dim"]["fixed_small"]["of_each_image"]
    consistent(second)
    third = run("--runs", "short", "--samplers", "ddpm-8", "--halves")
    assert third["runs"]["short"][HALVES].keys() == {"ddpm-8"}
    assert third["runs"]["short"]["frechet_distances"] == second["runs"]["short"]["frechet_distances"]
    consistent(third)
    assert (tmp_path / "ddpm_mnist.png").stat().st_size > 1000
    assert "x floor" in capsys.readouterr().out
    monkeypatch.setattr(ddpm_mnist, "SEED", 2)
    with pytest.raises(SystemExit):
        run()


def test_the_standard_error_of_a_distance_is_the_spread_over_samples():
    torch.manual_seed(0)
    rest, draws = FeatureStats(), []
    rest.update(torch.randn(20000, 4, dtype=torch.float64))
    for _ in range(200):
        draws.append(ddpm_mnist.jackknifed(1.2 * torch.randn(500, 4, dtype=torch.float64) + 0.3, rest))
    spread = statistics.stdev(draw["value"] for draw in draws)
    # 200 draws know their spread to 5%
    assert statistics.fmean(draw["standard_error"] for draw in draws) == pytest.approx(spread, rel=0.2)
