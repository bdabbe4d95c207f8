"""Likelihoods as measured: the records are of the present settings, good enough, and what the script writes."""

import json
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import perf
from dgmkern.data import ImageDataset
from dgmkern.models.vae import VAEConfig
from dgmkern.train import RunConfig, RunFolder, TrainConfig, Trainer, load_model
from perf.quality import vae_nll

RECORDS = Path(perf.__file__).parent / "results" / "quality"
MOST = {"vae": 89.9, "iwae": 87.1}  # nats


def stripes(n: int, split: str) -> ImageDataset:
    """The upper or the lower half is white, but for one pixel of each image."""
    images = torch.zeros(n, 1, 28, 28, dtype=torch.uint8)
    images[::2, :, :14] = 255
    images[1::2, :, 14:] = 255
    turned = torch.randint(784, (n,), generator=torch.Generator().manual_seed(len(split)))
    images.flatten(1)[torch.arange(n), turned] ^= 255
    return ImageDataset("binarized-mnist", split, images, torch.zeros(n, dtype=torch.int64), ("digit",))


@pytest.fixture
def small(monkeypatch, one_thread):
    """Both chains, a second each; every checkpoint is kept."""
    model = VAEConfig(encoder=(16,), decoder=(16,), latent=3)
    train = TrainConfig(steps=60, batch_size=8, lr=0.003, checkpoint_every=30)
    vae = RunConfig("vae", model, vae_nll.DATA, vae_nll.IMAGE_SHAPE, train)
    iwae = replace(vae, model_config=replace(model, samples=4), train=replace(train, steps=30))
    monkeypatch.setattr(vae_nll, "RUNS", {"vae": vae, "iwae": iwae})
    monkeypatch.setattr(vae_nll, "load", lambda name, split: stripes(40, split))
    monkeypatch.setattr(vae_nll, "VALIDATION_IMAGES", 20)
    monkeypatch.setattr(vae_nll, "TEST_IMAGES", 40)
    return vae_nll.RUNS


@pytest.mark.parametrize("name", MOST)
def test_the_record_is_of_the_present_settings_and_good_enough(name):
    record = json.loads((RECORDS / f"vae_nll-{name}.json").read_text())
    assert tuple(record["stages"]) == vae_nll.CHAINS[name]
    for stage, found in record["stages"].items():
        config = RunConfig.from_json(json.dumps(found["config"]))
        assert config == vae_nll.RUNS[stage]
        assert sum(session["steps"] for session in found["sessions"]) == config.train.steps
        assert found["validation"][-1]["step"] == config.train.steps
    test, images = record["test"], record["protocol"]["test_images"]
    assert test["nll"] <= MOST[name]
    assert test["nll_standard_error"] < 30 / math.sqrt(images)
    assert test["nll"] < -test["elbo"] == pytest.approx(test["kl"] - test["log_likelihood"])


def test_a_chain_starts_each_run_from_the_best_weights_before_and_writes_what_it_found(small, tmp_path, monkeypatch):
    runs, out = tmp_path / "runs", tmp_path / "out"

    def record(name: str) -> dict:
        monkeypatch.setattr(sys, "argv", ["vae_nll", name, str(out), "--samples", "10", "--runs", str(runs)])
        vae_nll.main()
        return json.loads((out / f"vae_nll-{name}.json").read_text())

    vae, iwae = record("vae"), record("iwae")
    assert iwae["stages"]["vae"] == vae["stages"]["vae"]  # trained once
    assert [point["step"] for point in vae["stages"]["vae"]["validation"]] == [0, 30, 60]
    assert [point["step"] for point in iwae["stages"]["iwae"]["validation"]] == [0, 30]
    model, curve = vae_nll.best(RunFolder(runs / "vae_nll-vae"), stripes(40, "valid"))
    assert max(point["bound"] for point in curve) == curve[-1]["bound"] > curve[0]["bound"]
    (first,) = (runs / "vae_nll-iwae" / "checkpoints").glob("step-00000000.safetensors")
    start = load_model(vae_nll.load_checkpoint(first)).state_dict()
    assert all(torch.equal(start[key], value) for key, value in model.state_dict().items())
    assert iwae["training_cpu_seconds"] >= vae["training_cpu_seconds"] > 0
    assert vae["test"]["nll"] < -vae["test"]["elbo"]


def test_the_best_checkpoint_is_that_of_the_best_bound(small, tmp_path):
    """Networks of zeros but for the bias b of the output: the bound is 784 log sigmoid(+-b), half the pixels white."""
    run, trainer = RunFolder(tmp_path / "run"), Trainer(small["vae"], stripes(40, "train"))
    run.create(small["vae"])
    held_out = stripes(20, "valid")
    white = (held_out.images == 255).flatten(1).double().mean().item()
    biases = (1.0, 0.1, -2.0)
    for trainer.step, bias in enumerate(biases):
        with torch.no_grad():
            for parameter in trainer.ema.module.parameters():
                parameter.zero_()
            trainer.ema.module.decoder.layers[-1].bias.fill_(bias)
        trainer.save(run)
    model, curve = vae_nll.best(run, held_out)
    assert [point["step"] for point in curve] == [0, 1, 2]
    for point, b in zip(curve, biases, strict=True):
        bound = -784 * (white * math.log1p(math.exp(-b)) + (1 - white) * math.log1p(math.exp(b)))
        assert point["bound"] == pytest.approx(bound, rel=1e-6)
    assert model.decoder.layers[-1].bias.unique().tolist() == pytest.approx([0.1])


def test_a_stopped_run_goes_on_bit_for_bit(small, tmp_path, monkeypatch):
    data, config = stripes(40, "train"), small["vae"]
    step = Trainer.train_step

    def stopping(trainer: Trainer) -> dict[str, float]:
        record = step(trainer)
        if trainer.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return record

    monkeypatch.setattr(Trainer, "train_step", stopping)
    stopped, whole = (RunFolder(tmp_path / name) for name in ("stopped", "whole"))
    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        vae_nll.trained(config, stopped, None, data)
    sessions = vae_nll.trained(config, stopped, None, data)
    assert [(session["first_step"], session["steps"]) for session in sessions] == [(0, 2), (2, 58)]
    assert vae_nll.trained(config, stopped, None, data) == sessions  # finished: nothing is trained
    monkeypatch.setattr(Trainer, "train_step", step)
    vae_nll.trained(config, whole, None, data)
    ours, theirs = (run.latest().tensors for run in (stopped, whole))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
