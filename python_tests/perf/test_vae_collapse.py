import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from dgmkern.models.vae import VAEConfig
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
    result = {"kl": 3.0, "information": 2.0, "active_units": 4, "nll": 150.0, "kl_curve": [(0, 1.0), (50, 3.0)]}
    plot({"plain": result, "free bits": result}, tmp_path / "collapse.png")
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "collapse.png")))
    assert pixels.float().std() > 10
