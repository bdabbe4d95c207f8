"""Posterior collapse as measured: the record shows it and every cure, and the script writes what it finds."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import perf
from dgmkern.models.vae import VAEConfig
from perf.quality import vae_collapse
from perf.quality.means import means
from perf.quality.vae_collapse import FIGURES, IMAGE_SHAPE, SHOWN, described, experiment, plot, setups

RECORD = Path(perf.__file__).parent / "results" / "quality" / "vae_collapse-mnist.json"
SMALL = VAEConfig(encoder=(16,), decoder=(16,), latent=4)


@pytest.fixture(autouse=True)
def one_thread(_reproducible):
    torch.set_num_threads(1)


def bars(n: int) -> torch.Tensor:
    """Images of -1 and 1: the upper or the lower half is white."""
    upper = torch.arange(n) % 2
    x = torch.full((n, *IMAGE_SHAPE), -1.0)
    x[upper == 0, :, :14] = 1
    x[upper == 1, :, 14:] = 1
    return x


CURES = [(setup, cure) for setup, found in setups(12).items() for cure in found.cures]


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text())


def test_the_record_is_of_the_present_settings_and_its_means_are_those_of_its_runs(record):
    assert record["setting"]["setups"] == json.loads(json.dumps(described(record["setting"]["steps"])))
    for setup, found in record["results"].items():
        assert list(found) == list(record["setting"]["setups"][setup]["cures"])
        for result in found.values():
            assert [run["seed"] for run in result["runs"]] == [0, 1, 2]
            assert result["means"] == means(result["runs"], FIGURES)


def test_without_a_cure_both_collapse(record):
    for run in record["results"]["deep decoder"]["plain"]["runs"]:
        assert run["kl"] < 3  # of some 25 with Skip-VAE
        assert run["active_units"] <= 12  # of 50
    for run in record["results"]["lagging encoder"]["plain"]["runs"]:
        assert run["kl"] < 1.5
        assert run["refined_kl"] < 4


@pytest.mark.parametrize(("setup", "cure"), [(setup, cure) for setup, cure in CURES if cure != "plain"])
def test_every_cure_works_on_every_seed(record, setup, cure):
    found = record["results"][setup]
    for plain, cured in zip(found["plain"]["runs"], found[cure]["runs"], strict=True):
        assert cured["seed"] == plain["seed"]
        if cure not in ("free bits", "fixed variance"):  # whose KL is large by construction
            assert cured["refined_kl"] > 1.2 * plain["refined_kl"]
        assert cured["refined_information"] > plain["refined_information"] + 0.3
        if setup == "deep decoder":
            assert cured["active_units"] > plain["active_units"]


@pytest.mark.parametrize(("setup", "cure"), CURES)
def test_every_cure_trains_and_is_measured(setup, cure):
    of_setup = setups(12)[setup]
    config = dataclasses.replace(SMALL, **of_setup.cures[cure])
    result = experiment(config, bars(64), bars(40), steps=12, seed=0, encoder_lr=of_setup.encoder_lr)
    assert [step for step, _ in result["kl_curve"]] == [0]
    for of in ("", "refined_"):
        assert result[f"{of}kl"] == pytest.approx(result[f"{of}information"] + result[f"{of}marginal_kl"])
        assert 0 <= result[f"{of}active_units"] <= 4
        assert math.isfinite(result[f"{of}nll"])


def test_a_frozen_encoder_stays_and_svi_finds_what_the_decoder_has_learnt():
    result = experiment(SMALL, bars(64), bars(40), steps=400, seed=0, encoder_lr=0.0)
    (_, first), *_, (_, last) = result["kl_curve"]
    assert last == pytest.approx(first)
    bound, refined = (result[f"{of}log_likelihood"] - result[f"{of}kl"] for of in ("", "refined_"))
    assert refined > bound
    assert result["refined_information"] == pytest.approx(math.log(2), abs=0.1)


def test_two_kinds_of_images_are_one_bit_of_information():
    result = experiment(SMALL, bars(64), bars(40), steps=400, seed=0)
    assert result["information"] == pytest.approx(math.log(2), abs=0.1)
    assert len(result["kl_curve"]) == 8
    collapsed = experiment(dataclasses.replace(SMALL, beta=1e4), bars(64), bars(40), steps=400, seed=0)
    assert collapsed["information"] < 0.02
    assert collapsed["active_units"] == 0


def test_plot_draws_what_it_is_given(tmp_path):
    runs = [
        {**dict.fromkeys(SHOWN, 2.0), "kl": kl, "refined_nll": 150.0, "kl_curve": [(0, 1.0), (50, kl)]}
        for kl in (3.0, 5.0)
    ]
    several, one = ({"means": means(found, SHOWN), "runs": found} for found in (runs, runs[:1]))
    pictures = []
    for results in ({"plain": several, "free bits": one}, {"plain": one, "free bits": one}):
        plot({"deep decoder": results, "lagging encoder": {"plain": one}}, tmp_path / "collapse.png")
        pictures.append(torch.from_numpy(np.array(Image.open(tmp_path / "collapse.png"))).float())
        assert pictures[-1].std() > 10
    assert not torch.equal(*pictures)


def test_a_second_call_adds_seeds_to_the_record_and_repeats_none(tmp_path, monkeypatch, capsys):
    calls, sound = [], vae_collapse.experiment

    def experiment(config, *data, seed, **how):
        calls.append(seed)
        return sound(dataclasses.replace(config, decoder=(8,)), *data, seed=seed, **how)

    monkeypatch.setattr(vae_collapse, "experiment", experiment)
    monkeypatch.setattr(vae_collapse, "binarized", lambda split: bars(64))
    path, count = tmp_path / "record.json", len(CURES)

    def run(seeds: int, *more: str) -> dict:
        vae_collapse.main(["--out", str(path), "--steps", "3", "--held-out", "20", "--seeds", str(seeds), *more])
        return json.loads(path.read_text())

    first, second = run(1), run(2)
    assert calls == [0] * count + [1] * count
    assert [(setup, cure) for setup, found in second["results"].items() for cure in found] == CURES
    assert second["setting"]["setups"] == json.loads(json.dumps(described(3)))
    for setup, cure in CURES:
        result = second["results"][setup][cure]
        assert [result["runs"][0]] == first["results"][setup][cure]["runs"]
        assert [run["seed"] for run in result["runs"]] == [0, 1]
        for figure in FIGURES:
            values = np.array([run[figure] for run in result["runs"]])
            assert result["means"][figure] == pytest.approx(values.mean())
            assert result["means"][f"{figure}_std"] == pytest.approx(values.std(ddof=1))
    assert first["results"]["deep decoder"]["plain"]["means"]["kl_std"] is None
    assert (tmp_path / "record.png").stat().st_size > 1000
    plain = second["results"]["lagging encoder"]["plain"]["means"]
    lines = reversed(capsys.readouterr().out.splitlines())
    line = next(line for line in lines if line.split()[:3] == ["lagging", "encoder", "plain"])
    assert f"{plain['kl']:.2f} +- {plain['kl_std']:.2f}" in line
    assert line.split()[-1] == "2"
    with pytest.raises(SystemExit):
        run(2, "--held-out", "21")
    assert "has runs with other settings" in capsys.readouterr().err
