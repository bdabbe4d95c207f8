import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from dgmkern.models.vae import VAEConfig
from perf.quality import vae_collapse
from perf.quality.means import means
from perf.quality.vae_collapse import IMAGE_SHAPE, cures, experiment, plot

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


@pytest.mark.parametrize("cure", cures(12))
def test_every_cure_trains_and_is_measured(cure):
    config = dataclasses.replace(SMALL, **cures(12)[cure])
    result = experiment(config, bars(64), bars(40), steps=12, seed=0)
    assert [step for step, _ in result["kl_curve"]] == [0]
    assert result["kl"] == pytest.approx(result["information"] + result["marginal_kl"])
    assert 0 <= result["active_units"] <= 4
    assert math.isfinite(result["nll"])


def test_two_kinds_of_images_are_one_bit_of_information():
    result = experiment(SMALL, bars(64), bars(40), steps=400, seed=0)
    assert result["information"] == pytest.approx(math.log(2), abs=0.1)
    assert len(result["kl_curve"]) == 8
    collapsed = experiment(dataclasses.replace(SMALL, beta=1e4), bars(64), bars(40), steps=400, seed=0)
    assert collapsed["information"] < 0.02
    assert collapsed["active_units"] == 0


def test_plot_draws_what_it_is_given(tmp_path):
    runs = [
        {"kl": kl, "information": 2.0, "active_units": 4, "nll": 150.0, "kl_curve": [(0, 1.0), (50, kl)]}
        for kl in (3.0, 5.0)
    ]
    names = ("kl", "information", "active_units", "nll")
    several, one = ({"means": means(found, names), "runs": found} for found in (runs, runs[:1]))
    pictures = []
    for results in ({"plain": several, "free bits": one}, {"plain": one, "free bits": one}):
        plot(results, tmp_path / "collapse.png")
        pictures.append(torch.from_numpy(np.array(Image.open(tmp_path / "collapse.png"))).float())
        assert pictures[-1].std() > 10
    assert not torch.equal(*pictures)


def test_a_second_call_adds_seeds_to_the_record_and_repeats_none(tmp_path, monkeypatch, capsys):
    calls, sound = [], vae_collapse.experiment

    def experiment(config, x, held_out, *, steps, seed):
        calls.append(seed)
        return sound(dataclasses.replace(config, decoder=(8,)), x, held_out, steps=steps, seed=seed)

    monkeypatch.setattr(vae_collapse, "experiment", experiment)
    monkeypatch.setattr(vae_collapse, "binarized", lambda split: bars(64))
    path, count = tmp_path / "record.json", len(cures(3))

    def run(seeds: int, *more: str) -> dict:
        vae_collapse.main(["--out", str(path), "--steps", "3", "--held-out", "20", "--seeds", str(seeds), *more])
        return json.loads(path.read_text())

    first, second = run(1), run(2)
    assert calls == [0] * count + [1] * count
    assert list(second["results"]) == list(cures(3))
    assert second["setting"]["cures"] == json.loads(json.dumps(cures(3)))
    for name, result in second["results"].items():
        assert [result["runs"][0]] == first["results"][name]["runs"]
        assert [run["seed"] for run in result["runs"]] == [0, 1]
        for figure in vae_collapse.FIGURES:
            values = np.array([run[figure] for run in result["runs"]])
            assert result["means"][figure] == pytest.approx(values.mean())
            assert result["means"][f"{figure}_std"] == pytest.approx(values.std(ddof=1))
    assert first["results"]["plain"]["means"]["kl_std"] is None
    assert (tmp_path / "record.png").stat().st_size > 1000
    plain = second["results"]["plain"]["means"]
    line = next(line for line in reversed(capsys.readouterr().out.splitlines()) if line.startswith("plain"))
    assert f"{plain['kl']:.2f} +- {plain['kl_std']:.2f}" in line
    assert line.split()[-1] == "2"
    with pytest.raises(SystemExit):
        run(2, "--held-out", "21")
    assert "has runs with other settings" in capsys.readouterr().err
