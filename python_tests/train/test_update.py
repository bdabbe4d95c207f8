"""Updates as functions of tensors: replays of a recording are the steps themselves; figures, clipping, bad losses."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from cpu_graph import Recorder, put_back, state_of

from dgmkern.data import load
from dgmkern.models import ddpm, model_classes
from dgmkern.models.ddpm import DDPMConfig
from dgmkern.models.gan import GANConfig
from dgmkern.models.vae import VAEConfig
from dgmkern.train import ConfigError, NonFiniteLossError, RunConfig, RunFolder, TrainConfig, Trainer, update
from dgmkern.train.device import pick_device
from dgmkern.train.update import Recorded

pytestmark = pytest.mark.usefixtures("one_thread")

UNET = {"channels": 16, "head_dim": 32, "timesteps": 20}
MODELS = {
    "vae": VAEConfig(encoder=(32,), decoder=(32,), latent=4, kl_schedule="linear", kl_steps=10),
    "vae conv, cyclical": VAEConfig("conv", (16,), (16,), latent=4, kl_schedule="cyclical", kl_steps=6, free_bits=0.1),
    "iwae": VAEConfig(encoder=(32,), decoder=(32,), latent=4, samples=3),
    "semi-amortized": VAEConfig(encoder=(32,), decoder=(32,), latent=4, refinement="semi_amortized"),
    "hmc": VAEConfig(encoder=(32,), decoder=(32,), latent=4, refinement="hmc", refinement_steps=2),
    "gan": GANConfig(latent=4, hidden=16, spectral_norm=True),
    "wgan": GANConfig("wasserstein", clip_weights=0.01, latent=4, hidden=16, discriminator_steps=2),
    "wgan-gp": GANConfig("wasserstein", gradient_penalty=10.0, latent=4, hidden=16),
    "wgan-gp conv": GANConfig("wasserstein", gradient_penalty=10.0, latent=4, network="conv", channels=16),
    "ddpm": DDPMConfig(**UNET),
    "ddpm, classes, dropout": DDPMConfig(**UNET, classes=10, dropout=0.1),
    "ddpm, hybrid, by past losses": DDPMConfig(
        **UNET, objective="hybrid", variance="learned_range", step_sampling="loss-second-moment"
    ),
}


def make(name, **settings):
    """A trainer of MODELS[name] on digits."""
    dataset = load("digits")
    model = name.split()[0].rstrip(",")
    model = {"iwae": "vae", "semi-amortized": "vae", "hmc": "vae", "wgan": "gan", "wgan-gp": "gan"}.get(model, model)
    assert isinstance(MODELS[name], model_classes(model)[1])
    how = {"steps": 100, "batch_size": 16, "warmup": 3, "device": "cpu"} | settings
    train = TrainConfig(**how)
    return Trainer(RunConfig(model, MODELS[name], "digits", dataset.image_shape, train), dataset)


@pytest.fixture
def recordings(monkeypatch):
    """The recorders that `record` made instead of CUDA graphs."""
    made = []

    def record(trainer, function):
        state = state_of(trainer.model, *trainer.optimizers.values())
        recorder = Recorder()
        with recorder, monkeypatch.context() as patched:
            # optimizers ask whether a GPU is recording, and check what they need then
            stream = SimpleNamespace(is_capturing=lambda: True)
            patched.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("cuda"))
            patched.setattr(torch.accelerator, "current_stream", lambda *_: stream)
            figures = function()
        put_back(state)  # recording a CUDA graph does nothing of it
        made.append(recorder)
        return recorder.replay, figures

    def use(trainer):
        monkeypatch.setattr(update, "record", partial(record, trainer))
        monkeypatch.setattr(ddpm, "check_labels", lambda *_: None)  # looks at numbers on a CPU only
        plain = trainer._update
        monkeypatch.setattr(trainer, "_update", lambda phase: Recorded(plain(phase)))

    use.made = made
    return use


@pytest.mark.parametrize("name", MODELS)
def test_replays_of_one_recording_are_the_steps_that_are_not_recorded(name, recordings):
    """Twelve steps, four of them warm-up and recording: rates, seeds, images and weights of the KL change."""
    plain, recorded = make(name), make(name)
    recordings(recorded)
    for _ in range(12):
        want, got = plain.train_step(), recorded.train_step()
        assert got.keys() == want.keys()
        for figure, value in want.items():
            assert got[figure] == pytest.approx(value, rel=2e-4), figure
    assert len(recordings.made) == len({phase.name for phase in getattr(plain.model, "phases", lambda _: [_Only])(0)})
    for ours, theirs in zip(recorded.model.state_dict().values(), plain.model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)


class _Only:
    name = "loss"


def test_a_number_of_the_host_in_a_loss_would_show(recordings):
    """The stand-in freezes it, as a CUDA graph does: then replays drift away."""
    plain, recorded = make("vae"), make("vae")
    for trainer in (plain, recorded):
        loss = trainer.model.loss
        trainer.model.loss = lambda x, *, step, loss=loss, **how: loss(x, step=step, **how) * (1.0 + how_far(step))
    counter = {"calls": 0}

    def how_far(step):
        counter["calls"] += 1
        return 0.01 * (counter["calls"] // 2)

    recordings(recorded)
    steps = [(plain.train_step()["loss"], recorded.train_step()["loss"]) for _ in range(8)]
    assert steps[0][1] == pytest.approx(steps[0][0], rel=0.02)
    assert steps[-1][1] != pytest.approx(steps[-1][0], rel=1e-3)


def test_a_loss_that_waits_for_the_device_cannot_be_recorded(recordings):
    recorded = make("vae")
    loss = recorded.model.loss
    recorded.model.loss = lambda x, **how: loss(x, **how) * (1.0 if x.sum().item() else 2.0)
    recordings(recorded)
    for _ in range(3):
        recorded.train_step()
    with pytest.raises(RuntimeError, match="waits for the device"):
        recorded.train_step()


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_leaves_weights_and_optimizer_as_they_were(what, recorded, recordings):
    trainer = make("gan")
    if recorded:
        recordings(trainer)
    for _ in range(5):
        trainer.train_step()
    weights, state = copy.deepcopy(trainer.model.state_dict()), state_of(*trainer.optimizers.values())
    bad = trainer.model.discriminator.state_dict()
    name = next(iter(bad))
    with torch.no_grad():
        parameter = dict(trainer.model.discriminator.named_parameters())[name]
        parameter[0] = float("nan") if what == "loss" else 1e38
        weights[f"discriminator.{name}"] = parameter.clone()
    with pytest.raises(NonFiniteLossError, match="discriminator"):
        trainer.train_step()
    for key, value in trainer.model.discriminator.state_dict().items():
        if "_u" not in key and "_v" not in key:  # of the power iteration
            torch.testing.assert_close(value, weights[f"discriminator.{key}"], rtol=0, atol=0, equal_nan=True)
    for x, before in state:
        assert torch.equal(x, before)


@pytest.mark.parametrize("recorded", [False, True])
def test_gradients_are_clipped_to_the_norm(recorded, recordings):
    """A step of AdamW without its memory, on gradients scaled by hand."""
    clip = 0.5
    clipped, free = make("vae", clip_grad=clip, betas=(0.0, 0.0)), make("vae", clip_grad=1e9, betas=(0.0, 0.0))
    if recorded:
        recordings(clipped)
    record = clipped.train_step()
    assert record["grad_norm"] > clip
    assert free.train_step()["grad_norm"] == record["grad_norm"]
    for short, long in zip(clipped.model.parameters(), free.model.parameters(), strict=True):
        torch.testing.assert_close(short.grad, long.grad * (clip / record["grad_norm"]), rtol=1e-5, atol=1e-9)


def test_the_stand_in_asks_of_an_optimizer_what_torch_does(recordings, monkeypatch):
    trainer = make("vae")
    recordings(trainer)
    (optimizer,) = trainer.optimizers.values()
    plain = optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda: (optimizer.param_groups[0].update(capturable=False), plain()))
    for _ in range(3):
        trainer.train_step()
    with pytest.raises(RuntimeError, match="capturable is False"):
        trainer.train_step()


def saved(trainer, path):
    """A run with a checkpoint of the trainer as it is."""
    run = RunFolder(path / "run")
    run.create(trainer.config)
    trainer.save(run)
    return run


@pytest.mark.parametrize("recorded", [False, True])
def test_a_trainer_that_goes_back_to_a_checkpoint_repeats_itself(recorded, recordings, tmp_path):
    trainer = make("gan")
    if recorded:
        recordings(trainer)
    for _ in range(6):
        trainer.train_step()
    run = saved(trainer, tmp_path)
    first = [trainer.train_step() for _ in range(6)]
    trainer.restore(run.latest())
    for again, want in zip((trainer.train_step() for _ in range(6)), first, strict=True):
        assert again == pytest.approx(want, rel=1e-5)


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_the_optimizers_state_is_restored_to_where_its_parameter_is(tmp_path):
    trainer = make("vae")
    trainer.train_step()
    run = saved(trainer, tmp_path)
    elsewhere = make("vae")
    for name, parameter in list(elsewhere.model.named_parameters()):
        moved = torch.nn.Parameter(parameter.to("meta"))
        module, _, own = name.rpartition(".")
        setattr(elsewhere.model.get_submodule(module), own, moved)
        elsewhere._optimizer_of[moved] = elsewhere._optimizer_of[parameter]
    elsewhere.restore(run.latest())
    (optimizer,) = elsewhere.optimizers.values()
    states = [optimizer.state[parameter] for parameter in elsewhere.model.parameters()]
    assert {value.device.type for state in states for value in state.values()} == {"meta"}
    assert all(state.keys() == {"step", "exp_avg", "exp_avg_sq"} for state in states)


def test_where_a_run_computes(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="device: got cuda"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("cuda") == torch.device("cuda", 3)
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["vae", "wgan-gp conv", "semi-amortized"])
def test_compiled_networks_train_as_the_others(name):
    plain, compiled = make(name), make(name, compile=True)
    for _ in range(4):
        want, got = plain.train_step(), compiled.train_step()
        for figure, value in want.items():
            assert got[figure] == pytest.approx(value, rel=1e-3, abs=1e-5), figure
    assert all(network._compiled_call_impl is not None for network in compiled.model.networks())
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()
