import dataclasses
import itertools
import json

import pytest

from dgmkern.train import ConfigError, RunConfig, TrainConfig, learning_rate


def test_a_config_survives_json(tiny):
    config = tiny(precision="bf16", lr=3e-4)
    assert RunConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"lr": 0.001', '"lr": -1', "lr: got -1"),
        ('"schedule": "cosine"', '"schedule": "quadratic"', "unknown schedule 'quadratic'"),
        ('"model": "ddpm"', '"model": "vae9"', "unknown model 'vae9'"),
        ('"data": "digits"', '"data": "svhn"', "unknown data set 'svhn'"),
        ('"head_dim"', '"heads"', "DDPMConfig has other fields.*head_dim, heads"),
        ('"model": "ddpm",', "", "want .*model"),
        ('"lr": 0.001', '"lr": 0.001, "momentum": 0.9', "TrainConfig has other fields.*momentum"),
        ("{", "[", "config: "),
    ],
)
def test_json_that_is_not_a_config_is_refused(tiny, old, new, message):
    text = tiny().to_json()
    assert old in text
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_json(text.replace(old, new, 1))


def test_a_config_older_than_a_setting_has_its_default(tiny):
    record = json.loads(tiny(lr=3e-4).to_json())
    del record["train"]["betas"], record["model_config"]["dropout"], record["fingerprint"]
    assert RunConfig.from_json(json.dumps(record)) == tiny(lr=3e-4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"lr": float("nan")}, "lr: got nan"),
        ({"lr": float("inf")}, "lr: got inf"),
        ({"clip_grad": 0.0}, "clip_grad: got 0.0"),
        ({"ema_decay": 1.0}, "ema_decay: got 1.0"),
        ({"betas": (0.9, 1.0)}, r"betas: got \(0.9, 1.0\)"),
        ({"betas": (-0.1, 0.9)}, r"betas: got \(-0.1, 0.9\)"),
        ({"betas": (0.9,)}, r"betas: got \(0.9,\)"),
        ({"warmup": -1}, "warmup: got -1"),
        ({"weight_decay": float("nan")}, "weight_decay: got nan"),
        ({"precision": "fp8"}, "precision: got 'fp8', want one of fp32, bf16"),
    ],
)
def test_a_bad_setting_is_named_with_what_is_wanted(setting, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**setting)


def test_a_resumed_run_may_be_longer_but_not_another_computation(tiny):
    stored = tiny()
    tiny(steps=99, checkpoint_every=1, keep_last=9).check_resumes(stored)
    with pytest.raises(ConfigError, match=r"train.lr: got 0.5, but the run to resume has 0.001"):
        tiny(lr=0.5).check_resumes(stored)
    other = dataclasses.replace(stored.model_config, blocks=2)
    with pytest.raises(ConfigError, match=r"model_config.blocks: got 2"):
        dataclasses.replace(stored, model_config=other).check_resumes(stored)


def test_a_folder_of_pictures_may_have_moved_but_not_changed(tiny):
    stored = dataclasses.replace(tiny(), data="/old/pictures", fingerprint="3 pictures")
    assert RunConfig.from_json(stored.to_json()) == stored
    dataclasses.replace(stored, data="/new").check_resumes(stored)
    with pytest.raises(ConfigError, match="fingerprint: got '4 pictures', but the run to resume has '3 pictures'"):
        dataclasses.replace(stored, fingerprint="4 pictures").check_resumes(stored)
    with pytest.raises(ConfigError, match="data: got 'digits', but the run to resume has '/old/pictures'"):
        tiny().check_resumes(stored)


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    config = TrainConfig(steps=110, warmup=9, lr=2.0)
    rates = [learning_rate(config, step) for step in range(110)]
    assert rates[:9] == pytest.approx([0.2 * (k + 1) for k in range(9)])
    assert max(rates) == rates[9] == 2.0
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))
    assert 0 < rates[-1] < 0.001
    assert learning_rate(config, 110) == pytest.approx(0.0)
    constant = dataclasses.replace(config, lr_schedule="constant")
    assert {learning_rate(constant, step) for step in range(9, 200)} == {2.0}
