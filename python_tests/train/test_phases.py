"""Games of several players in the trainer: a phase is an optimizer step of one of them."""

import json

import pytest
import torch
from bits import assert_same_bits, state
from torch import nn

from dgmkern import models
from dgmkern.data import NAMES, batch_indices
from dgmkern.models import Phase
from dgmkern.models.ddpm import DDPM
from dgmkern.models.gan import GAN, GANConfig
from dgmkern.train import NonFiniteLossError, RunConfig, RunFolder, Trainer, load_model, preset, read_log
from dgmkern.train.seeds import step_seed

GAMES = {
    "wgan-gp": None,
    "clipped": GANConfig(kind="wasserstein", clip_weights=0.05, discriminator_steps=3, hidden=16, latent=4),
    "hinge, spectral, conv": GANConfig(kind="hinge", spectral_norm=True, network="conv", channels=8, latent=4),
    "packed": GANConfig(packing=2, hidden=16, latent=4),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("game", GAMES.values(), ids=GAMES.keys())
def test_a_resumed_game_has_the_bits_of_an_uninterrupted_one(tmp_path, digits, tiny_gan, game, precision):
    config = tiny_gan(game, precision=precision, channels_last=True, checkpoint_every=5)
    straight, stopped = Trainer(config, digits), Trainer(config, digits)
    runs = [RunFolder(tmp_path / name) for name in ("straight", "resumed")]
    for run in runs:
        run.create(config)
    straight.fit(runs[0], progress=False)
    for _ in range(7):
        stopped.train_step()
    stopped.save(runs[1])
    torch.manual_seed(99)
    resumed = Trainer(config, digits)
    resumed.restore(runs[1].latest())
    resumed.fit(runs[1], progress=False)

    assert sum(name.startswith("optimizer.1.") for name in state(straight)) > 0
    assert_same_bits(straight, resumed)
    losses = [[{k: v for k, v in r.items() if k != "seconds"} for r in read_log(run.log)] for run in runs]
    assert losses[0][7:] == losses[1]


def test_the_checkpoint_holds_the_optimizer_state_of_each_player(tmp_path, digits, tiny_gan):
    run, trainer = RunFolder(tmp_path / "run"), Trainer(tiny_gan(steps=3), digits)
    run.create(trainer.config)
    trainer.fit(run, progress=False)
    checkpoint = run.latest()
    saved = checkpoint.part("optimizer")
    assert {name.partition(".")[0] for name in saved} == {"generator", "discriminator"}
    for name, parameter in trainer.model.named_parameters():
        assert saved[f"{name}.exp_avg"].shape == parameter.shape
        steps = 6 if name.startswith("discriminator") else 3
        assert saved[f"{name}.step"].item() == steps
    model = load_model(checkpoint)
    assert torch.equal(model.sample(2, seed=0), trainer.ema.module.eval().sample(2, seed=0))


def test_each_phase_has_its_own_batch_and_seed(digits, tiny_gan, monkeypatch):
    config, seen = tiny_gan(), []
    trainer = Trainer(config, digits)

    def spied(loss):
        def spy(x, *, seed, step, labels, share):
            seen.append((x, seed, step, labels, torch.initial_seed()))
            return loss(x, seed=seed, step=step, labels=labels)

        return spy

    for name in ("discriminator_loss", "generator_loss"):
        monkeypatch.setattr(trainer.model, name, spied(getattr(trainer.model, name)))
    trainer.train_step()
    trainer.train_step()
    assert [step for _, _, step, _, _ in seen] == [0, 0, 0, 1, 1, 1]
    assert len({seed for _, seed, _, _, _ in seen}) == 6
    assert seen[0][1] == step_seed(0, 0)  # that of a model of one phase
    assert all(seed == of_torch for _, seed, _, _, of_torch in seen)
    for number, (x, _, _, labels, _) in enumerate(seen):
        indices = torch.from_numpy(batch_indices(len(digits), 8, seed=0, step=number))
        assert torch.equal(x, digits.images[indices].float() / 127.5 - 1)
        assert torch.equal(labels, digits.labels[indices])


def test_the_record_has_the_mean_loss_and_gradient_norm_of_each_player(tmp_path, digits, tiny_gan):
    run, trainer = RunFolder(tmp_path / "run"), Trainer(tiny_gan(steps=2), digits)
    run.create(trainer.config)
    values, sound = [], trainer.model.discriminator_loss

    def loss(x, **how):
        values.append(sound(x, **how))
        return values[-1]

    trainer.model.discriminator_loss = loss
    trainer.fit(run, progress=False)
    records = [json.loads(line) for line in run.log.read_text().splitlines()]
    names = ["discriminator_loss", "discriminator_grad_norm", "generator_loss", "generator_grad_norm"]
    assert list(records[0]) == ["step", *names, "lr", "seconds"]
    for step, record in enumerate(records):
        first, second = (value.item() for value in values[2 * step : 2 * step + 2])
        assert record["discriminator_loss"] == pytest.approx((first + second) / 2, rel=1e-12)
        assert all(record[name] > 0 for name in names if name.endswith("norm"))


def test_a_model_of_one_phase_logs_as_before(digits, tiny):
    record = Trainer(tiny(), digits).train_step()
    assert list(record) == ["step", "loss", "grad_norm", "lr"]


def test_the_step_and_the_labels_reach_the_loss(digits, tiny, monkeypatch):
    seen, sound = [], DDPM.loss

    def loss(self, x0, *, seed, step, labels, share):
        seen.append((step, labels))
        return sound(self, x0, seed=seed)

    monkeypatch.setattr(DDPM, "loss", loss)
    trainer = Trainer(tiny(), digits)
    for _ in range(3):
        trainer.train_step()
    assert [step for step, _ in seen] == [0, 1, 2]
    for step, labels in seen:
        indices = torch.from_numpy(batch_indices(len(digits), 8, seed=0, step=step))
        assert torch.equal(labels, digits.labels[indices])


def test_after_is_called_when_the_player_has_stepped(digits, tiny_gan):
    trainer = Trainer(tiny_gan(GAMES["clipped"], lr=0.5), digits)
    trainer.train_step()
    weights = torch.cat([p.flatten() for p in trainer.model.discriminator.parameters()])
    assert weights.abs().max() == 0.05
    assert max(p.abs().max() for p in trainer.model.generator.parameters()) > 0.3


def test_the_betas_of_the_config_reach_every_optimizer(digits, tiny, tiny_gan):
    for config, players in ((tiny(), 1), (tiny_gan(betas=(0.25, 0.75)), 2)):
        optimizers = Trainer(config, digits).optimizers.values()
        betas = [group["betas"] for optimizer in optimizers for group in optimizer.param_groups]
        assert betas == [config.train.betas] * players
    assert tiny().train.betas == (0.9, 0.999)  # those of torch, which runs had before there was a choice


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_a_non_finite_loss_names_the_player_and_leaves_its_weights(digits, tiny_gan, monkeypatch, player):
    trainer = Trainer(tiny_gan(), digits)
    sound = getattr(trainer.model, f"{player}_loss")
    monkeypatch.setattr(trainer.model, f"{player}_loss", lambda x, **how: sound(x, **how) * float("nan"))
    before = {name: t.clone() for name, t in getattr(trainer.model, player).state_dict().items()}
    with pytest.raises(NonFiniteLossError, match=rf"{player} loss is nan at step 0 \(batch seed \d+\)"):
        trainer.train_step()
    assert all(torch.equal(t, before[name]) for name, t in getattr(trainer.model, player).state_dict().items())


def test_players_with_common_parameters_are_refused(digits, tiny_gan, monkeypatch):
    def phases(self, step):
        return Phase("critic", self.discriminator, self.discriminator_loss), Phase("all", self, self.generator_loss)

    monkeypatch.setattr(GAN, "phases", phases)
    with pytest.raises(ValueError, match=r"phases: got discriminator\.\S+ in two players, want players without common"):
        Trainer(tiny_gan(), digits)


def test_a_parameter_of_no_player_stays_as_it_is(tmp_path, digits, tiny_gan, monkeypatch):
    def phases(self, step):
        return (Phase("generator", self.generator, self.generator_loss),)

    monkeypatch.setattr(GAN, "phases", phases)
    run, trainer = RunFolder(tmp_path / "run"), Trainer(tiny_gan(steps=2), digits)
    before = {name: t.clone() for name, t in trainer.model.state_dict().items()}
    run.create(trainer.config)
    trainer.fit(run, progress=False)
    after = trainer.model.state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"generator"}
    assert {name.partition(".")[0] for name in run.latest().part("optimizer")} == {"generator"}


def test_the_registry_names_a_phase_of_its_own_for_a_model_without_phases():
    model = nn.Linear(2, 1)
    model.loss = lambda x, **how: model(x).sum()
    (phase,) = models.phases_of(model, 5)
    assert (phase.name, phase.module, phase.loss, phase.after) == ("loss", model, model.loss, None)


@pytest.mark.parametrize("data", NAMES)
def test_the_presets_of_the_gan_make_a_step(digits, data):
    model, train = preset("gan", data)
    shape = {"digits": (1, 8, 8), "cifar10": (3, 32, 32), "cifar10-subset": (3, 32, 32)}.get(data, (1, 28, 28))
    assert GAN(model, shape).sample(2, seed=0).shape == (2, *shape)
    record = Trainer(RunConfig("gan", model, "digits", (1, 8, 8), train), digits).train_step()
    assert record["discriminator_loss"] > 0
    assert 0 < train.betas[0] <= 0.5
