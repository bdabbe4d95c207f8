"""The DDPM in training: fused against reference, resumed runs, bits/dim on digits and its terms."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import twenty_steps
from ddpm_cases import TINY, decoder_nll, perturbed, posterior, predicted_x0
from torch.distributions import Normal, kl_divergence

import dgmkern
from dgmkern.data import batch_indices, load, to_signed
from dgmkern.models.ddpm import DDPM, DDPMConfig
from dgmkern.train import RunConfig, RunFolder, TrainConfig, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_fused_path_is_the_reference_path_over_20_steps():
    environment = {**os.environ, "DGMKERN_BACKEND": "reference", "PYTHONPATH": str(Path(dgmkern.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, twenty_steps.__file__], env=environment, capture_output=True, text=True, check=True
    )
    fused, reference = twenty_steps.losses(), json.loads(done.stdout)
    assert len(fused) == 20
    assert fused[-1] < fused[0]
    fused, reference = (torch.tensor(losses, dtype=torch.float64) for losses in (fused, reference))
    # all is fp64 but the noise, which in the reference is within ulps of fp32
    torch.testing.assert_close(fused, reference, rtol=2e-7, atol=0)


def test_a_resumed_run_draws_the_same_important_steps_bit_for_bit(tmp_path):
    digits = load("digits")
    settings = {"variance": "learned_range", "objective": "vlb", "step_sampling": "loss-second-moment", "timesteps": 4}
    model = dataclasses.replace(TINY, **settings)
    config = RunConfig("ddpm", model, "digits", (1, 8, 8), TrainConfig(steps=12, batch_size=16, checkpoint_every=8))
    straight = Trainer(config, digits)
    for _ in range(12):
        straight.train_step()
    stopped, run = Trainer(config, digits), RunFolder(tmp_path / "run")
    run.create(config, overwrite=False)
    for _ in range(8):
        stopped.train_step()
    stopped.save(run)
    resumed = Trainer(config, digits)
    resumed.restore(run.latest())
    assert (resumed.model.step_sampler.seen >= 10).all()  # t is no longer uniform
    for _ in range(4):
        resumed.train_step()
    got = resumed.model.state_dict()
    assert "step_sampler.losses" in got
    for name, want in straight.model.state_dict().items():
        assert torch.equal(got[name], want), name


def bound_of(model: DDPM, x0, seed: int, clip: float | None, kept: range):
    """L_0 ... L_{K-1} of images from the papers, in fp64, one step at a time, of the chain of the steps `kept`."""
    config, terms = model.config, []
    abars = torch.cumprod(1 - model.schedule.betas, 0)[list(kept)]
    s = dgmkern.DiffusionSchedule.from_betas(1 - abars / torch.cat([torch.ones(1, dtype=torch.float64), abars[:-1]]))
    eps = dgmkern.normal((len(x0), len(kept), *x0.shape[1:]), seed, dtype=x0.dtype)
    for step, abar in enumerate(abars):
        t = torch.full((len(x0),), step)
        x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * eps[:, step]
        out = model.unet(x_t, torch.full((len(x0),), kept[step]))
        out, v = out.split([2, 2] if config.variance == "learned_range" else [2, 0], dim=1)
        predicted = predicted_x0(config.prediction, out, x_t, abar)
        mean_q, small, large = posterior(s, x0, x_t, t)
        mean_p, _, _ = posterior(s, predicted if clip is None else predicted.clamp(-clip, clip), x_t, t)
        if config.variance == "learned_range":
            logvar = (v + 1) / 2 * large + (1 - v) / 2 * small
        else:
            logvar = large if config.variance == "fixed_large" and step > 0 else small
        std, std_q = (logvar / 2).exp().expand_as(x0), (small / 2).exp().expand_as(x0)
        kl = kl_divergence(Normal(mean_q, std_q), Normal(mean_p, std))
        term = kl if step > 0 else decoder_nll(x0, mean_p, std)
        terms.append(term.mean((1, 2, 3)) / math.log(2))
    return torch.stack(terms, 1)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize(("clip", "steps"), [(None, None), (1.0, None), (None, 8), (1.0, 8)])
def test_every_term_of_bits_per_dim_is_that_of_the_papers_in_fp64(prediction, variance, clip, steps):
    config = dataclasses.replace(TINY, prediction=prediction, variance=variance, objective="vlb", schedule="linear")
    model = perturbed(DDPM(dataclasses.replace(config, timesteps=50), (2, 8, 8))).double().eval()
    model.unet.head.weight.data.mul_(0.02)
    x0 = to_signed(load("digits").images[:6]).reshape(3, 2, 8, 8).double()
    got = model.bits_per_dim(x0, seed=4, clip=clip, steps=steps, batch_size=7)
    with torch.no_grad():
        want = bound_of(model, x0, 4, clip, range(50) if steps is None else range(0, 50, 7))
    torch.testing.assert_close(got.terms, want, rtol=1e-8, atol=1e-11)
    abar = model.schedule.alphas_cumprod[-1]
    prior = kl_divergence(Normal(abar.sqrt() * x0, (1 - abar).sqrt()), Normal(torch.zeros_like(x0), 1.0))
    torch.testing.assert_close(got.prior, prior.mean((1, 2, 3)) / math.log(2), rtol=1e-8, atol=0)
    torch.testing.assert_close(got.total, want.sum(1) + got.prior, rtol=1e-8, atol=0)


def test_bits_per_dim_of_an_image_depends_on_its_number_not_on_batches_or_neighbours():
    model = perturbed(DDPM(dataclasses.replace(TINY, classes=3), (1, 8, 8))).eval()
    x0, labels = to_signed(load("digits").images[:5]), torch.tensor([0, 1, 2, 0, 1])
    every = model.bits_per_dim(x0, seed=1, labels=labels)
    assert every.terms.shape == (5, 20)
    assert torch.equal(model.bits_per_dim(x0, seed=1, labels=labels, steps=20).terms, every.terms)
    for how in ({"batch_size": 1}, {"batch_size": 33}, {"first": 0}):
        got = model.bits_per_dim(x0, seed=1, labels=labels, **how)
        torch.testing.assert_close(got.terms, every.terms, rtol=1e-4, atol=1e-5)
    part = model.bits_per_dim(x0[3:], seed=1, first=3, labels=labels[3:])
    torch.testing.assert_close(part.terms, every.terms[3:], rtol=1e-4, atol=1e-5)
    fewer = model.bits_per_dim(x0, seed=1, labels=labels, steps=5)
    part = model.bits_per_dim(x0[3:], seed=1, first=3, labels=labels[3:], steps=5, batch_size=4)
    torch.testing.assert_close(part.terms, fewer.terms[3:], rtol=1e-4, atol=1e-5)
    assert (model.bits_per_dim(x0, seed=2, labels=labels).total - every.total).abs().max() > 1e-3
    assert (model.bits_per_dim(x0, seed=1).total - every.total).abs().max() > 1e-3
    for name, wrong, message in (("batch_size", 0, "got 0, want an integer >= 1"), ("steps", 21, "expected 1 to 20")):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            model.bits_per_dim(x0, seed=1, **{name: wrong})


def trained(steps: int = 100, **settings) -> DDPM:
    """A DDPM after a short run on digits."""
    torch.manual_seed(0)
    model = DDPM(DDPMConfig(channels=16, head_dim=32, timesteps=50, **settings), (1, 8, 8))
    optimizer, digits = torch.optim.Adam(model.parameters()), load("digits")
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        batch = torch.from_numpy(batch_indices(len(digits), 64, seed=0, step=step))
        loss = model.loss(to_signed(digits.images[batch]), seed=step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def test_training_on_digits_lowers_bits_per_dim_and_a_learned_variance_lowers_it_further():
    """Measured: 7.40 untrained; simple 5.65 (fixed_large 5.30), hybrid 5.02, bound with important t 4.60."""
    test = to_signed(load("digits", "test").images)[::6]

    def bits(model: DDPM) -> float:
        return model.bits_per_dim(test, seed=9).total.mean().item()

    learned = {"variance": "learned_range"}
    simple = trained()
    fixed = {"fixed_small": bits(simple)}
    simple.config = dataclasses.replace(simple.config, variance="fixed_large")  # of the same network
    fixed["fixed_large"] = bits(simple)
    hybrid = bits(trained(objective="hybrid", **learned))
    bound = bits(trained(objective="vlb", step_sampling="loss-second-moment", **learned))
    assert fixed["fixed_small"] < bits(trained(0)) - 1.2
    assert hybrid < min(fixed.values()) - 0.1
    assert bound < min(fixed.values()) - 0.3
