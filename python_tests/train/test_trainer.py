import dataclasses
import os
import signal
import threading

import pytest
import torch
from bits import assert_same_bits, state

from dgmkern.models.ddpm import DDPM, DDPMConfig
from dgmkern.models.gan import GANConfig
from dgmkern.train import (
    Checkpoint,
    CheckpointError,
    ConfigError,
    NonFiniteLossError,
    RunFolder,
    Trainer,
    load_model,
    read_log,
)


def test_the_loss_falls_on_real_digits(digits, tiny):
    model = DDPMConfig(channels=16, head_dim=32, timesteps=50)
    trainer = Trainer(tiny(model, steps=60, batch_size=32, lr=3e-3, warmup=5, lr_schedule="constant"), digits)
    losses = [trainer.train_step()["loss"] for _ in range(60)]
    first, last = sum(losses[:5]) / 5, sum(losses[-10:]) / 10
    assert 0.7 < first < 1.0  # the second moment of v, about 0.85
    assert last < 0.6 * first  # 0.50 to 0.52 in trials with three seeds


def test_averaged_weights_follow_the_stated_average(digits, tiny):
    trainer = Trainer(tiny(ema_decay=0.5), digits)
    name = "unet.head.bias"
    want = None
    for updates in range(6):
        trainer.train_step()
        weight = trainer.model.state_dict()[name].double()
        decay = min(0.5, (1 + updates) / (10 + updates))
        want = weight if want is None else decay * want + (1 - decay) * weight
    assert (trainer.ema.module.state_dict()[name] - want).abs().max() < 1e-7


@pytest.mark.parametrize(
    "settings",
    [{}, {"channels_last": True}, {"precision": "bf16", "channels_last": True}],
    ids=["fp32", "nhwc", "bf16"],
)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path, digits, tiny, settings, dropout):
    model = DDPMConfig(channels=8, head_dim=16, timesteps=20, dropout=dropout)
    config = tiny(model, checkpoint_every=5, **settings)
    straight = Trainer(config, digits)
    run = RunFolder(tmp_path / "straight")
    run.create(config)
    straight.fit(run, progress=False)

    run = RunFolder(tmp_path / "resumed")
    run.create(config)
    stopped = Trainer(config, digits)
    for _ in range(7):
        stopped.train_step()
    stopped.save(run)
    torch.manual_seed(99)  # whatever the state of torch's own generator
    resumed = Trainer(config, digits)
    resumed.restore(run.latest())
    assert resumed.step == 7
    resumed.fit(run, progress=False)
    assert_same_bits(straight, resumed)


def test_grids_of_samples_while_training_change_no_bit_of_it(tmp_path, digits, tiny):
    weights = []
    for every in (0, 5):
        run, trainer = RunFolder(tmp_path / str(every)), Trainer(tiny(sample_every=every), digits)
        run.create(trainer.config)
        trainer.fit(run, progress=False)
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not (tmp_path / "0" / "samples").exists()
    grids = sorted((tmp_path / "5" / "samples").iterdir())
    assert [grid.name for grid in grids] == ["step-00000005.png", "step-00000010.png"]
    assert grids[0].read_bytes() != grids[1].read_bytes()
    run.create(trainer.config, overwrite=True)
    assert not any((tmp_path / "5" / "samples").iterdir())


def test_the_run_seed_decides_everything(digits, tiny):
    runs = []
    for seed in (0, 0, 1):
        trainer = Trainer(tiny(seed=seed), digits)
        runs.append([trainer.train_step()["loss"] for _ in range(3)])
    assert runs[0] == runs[1]
    assert all(a != b for a, b in zip(runs[0], runs[2], strict=True))


def test_training_leaves_the_callers_random_state_alone(tmp_path, digits, tiny):
    run = RunFolder(tmp_path / "run")
    config = tiny(steps=2)
    run.create(config)
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    Trainer(config, digits).fit(run, progress=False)
    assert torch.equal(torch.rand(3), want)


def test_gradient_is_clipped_and_its_norm_before_that_is_logged(digits, tiny):
    trainer = Trainer(tiny(clip_grad=1e-3), digits)
    record = trainer.train_step()
    norm = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
    assert record["grad_norm"] > 0.01
    assert norm <= 1.001e-3


def spoil_loss(monkeypatch, at_step: int, value: float) -> None:
    """Make the loss of one training step (of every trainer) `value`."""
    sound, calls = DDPM.loss, [0]

    def loss(self, x0, **how):
        calls[0] += 1
        return sound(self, x0, **how) * (value if calls[0] == at_step + 1 else 1.0)

    monkeypatch.setattr(DDPM, "loss", loss)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_with_step_and_seed_and_spoils_nothing(tmp_path, digits, tiny, monkeypatch, value):
    config = tiny()
    run = RunFolder(tmp_path / "run")
    run.create(config)
    spoil_loss(monkeypatch, 6, value)
    trainer = Trainer(config, digits)
    with pytest.raises(NonFiniteLossError, match=r"loss is (nan|inf) at step 6 \(batch seed \d+\)") as raised:
        trainer.fit(run, progress=False)
    assert raised.value.step == 6
    assert run.latest().step == 4
    assert all(tensor.isfinite().all() for tensor in run.latest().tensors.values())
    assert all(tensor.isfinite().all() for tensor in state(trainer).values())
    assert [record["step"] for record in read_log(run.log)] == [1, 2, 3, 4, 5, 6]


def test_a_non_finite_gradient_stops_too(digits, tiny):
    trainer = Trainer(tiny(), digits)
    trainer.model.unet.head.weight.register_hook(lambda grad: grad * float("nan"))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match="gradient norm is nan at step 0"):
        trainer.train_step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_finish_and_saves(tmp_path, digits, tiny, number):
    config = tiny(steps=100_000, checkpoint_every=100_000)
    run = RunFolder(tmp_path / "run")
    run.create(config)
    trainer = Trainer(config, digits)
    handler = signal.getsignal(number)
    threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
    assert trainer.fit(run, progress=False) == number
    assert signal.getsignal(number) is handler
    assert 0 < trainer.step < 100_000
    assert run.latest().step == trainer.step == read_log(run.log)[-1]["step"]


def test_a_checkpoint_of_another_network_is_refused_by_the_name_of_a_tensor(digits, tiny):
    trainer = Trainer(tiny(), digits)
    for change, message in (
        (lambda t: t.pop("model.unet.stem.bias"), "unet.stem.bias is in only one of the two"),
        (lambda t: t.update({"model.unet.stem.bias": torch.zeros(3)}), r"unet.stem.bias is \[3\], the model has \[8\]"),
    ):
        tensors = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
        change(tensors)
        with pytest.raises(CheckpointError, match=message):
            trainer.restore(Checkpoint(trainer.config, 3, tensors))


def test_batches_that_the_model_would_refuse_are_refused_at_once(digits, tiny, tiny_gan):
    with pytest.raises(ConfigError, match="classes: got 9, but digits has labels up to 9"):
        Trainer(tiny(DDPMConfig(channels=8, head_dim=16, timesteps=20, classes=9)), digits)
    with pytest.raises(ConfigError, match="packing: got 3, want a divisor of the 8 images"):
        Trainer(tiny_gan(GANConfig(packing=3, hidden=16, latent=4)), digits)


def test_images_of_another_size_are_refused(digits, tiny):
    config = dataclasses.replace(tiny(), image_shape=(1, 28, 28))
    with pytest.raises(ValueError, match=r"got images \(1, 8, 8\), the config is for \(1, 28, 28\)"):
        Trainer(config, digits)


def test_a_loaded_model_carries_the_averaged_weights(tmp_path, digits, tiny):
    config = tiny(steps=3)
    run = RunFolder(tmp_path / "run")
    run.create(config)
    trainer = Trainer(config, digits)
    trainer.fit(run, progress=False)
    for averaged, own in ((True, trainer.ema.module), (False, trainer.model)):
        model = load_model(run.latest(), averaged=averaged)
        assert not model.training
        assert all(torch.equal(t, own.state_dict()[name]) for name, t in model.state_dict().items())
