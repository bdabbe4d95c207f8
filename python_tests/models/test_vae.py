import dataclasses
import math
import os
import pathlib
import subprocess
import sys

import pytest
import torch
import usual_vae
from torch.distributions import Bernoulli
from usual_vae import CONV, CURES, LIKELIHOODS, MLP, SHAPE, images, kl_per_unit, make, posterior, usual_loss

from dgmkern import normal
from dgmkern.data import load, to_signed
from dgmkern.models.vae import VAE, VAEConfig

ROOT = pathlib.Path(__file__).parents[2]
STEP = 10  # of the loss: beta is 0.25 of a linear rise over 40 steps, 1 in the flat half of a cycle of 14


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("network", [MLP, CONV], ids=["mlp", "conv"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("cure", CURES)
def test_loss_and_gradients_are_those_of_the_usual_code_in_fp64(network, likelihood, cure):
    config = dataclasses.replace(network, likelihood=likelihood, **CURES[cure])
    if config.refinement != "none" and likelihood == "gaussian":
        config = dataclasses.replace(config, refinement_size=0.01)  # steps that do not overshoot
    model, x = make(config).double(), images(7).double()
    parameters = list(model.parameters())
    want = usual_loss(model, x, seed=5, step=STEP)
    wanted = torch.autograd.grad(want, parameters)
    got = model.loss(x, seed=5, step=STEP)
    assert got.item() == pytest.approx(want.item(), rel=1e-12)
    for (name, p), a, b in zip(model.named_parameters(), torch.autograd.grad(got, parameters), wanted, strict=True):
        assert (a - b).abs().max() <= 1e-9 * (1 + b.abs().max()), name
        assert b.abs().max() > 0, name
        assert p.grad is None


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_fp32_is_fp64_to_rounding(likelihood):
    model, x = make(dataclasses.replace(MLP, likelihood=likelihood)), images(7)
    got = model.loss(x, seed=5).item()
    assert got == pytest.approx(model.double().loss(x.double(), seed=5).item(), rel=2e-6)


@pytest.mark.parametrize("free_bits", [1e-3, 100.0])
def test_free_bits_take_the_gradient_of_units_below_and_of_no_other(free_bits):
    model, x = make(dataclasses.replace(MLP, free_bits=free_bits)).double(), images(7).double()
    plain = make(MLP).double()
    (got,) = torch.autograd.grad(model.loss(x, seed=5), [model.encoder[-1].weight])
    whole = plain.loss(x, seed=5) if free_bits < 1 else -plain.elbo(x, seed=5).log_likelihood.mean()
    (want,) = torch.autograd.grad(whole, [plain.encoder[-1].weight])
    assert kl_per_unit(posterior(plain, x)).mean(0).min() > 1e-3
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_kl_weights_at_chosen_steps():
    linear = VAEConfig(beta=2.0, kl_schedule="linear", kl_steps=100)
    assert [linear.kl_weight(s) for s in (0, 25, 100, 1000)] == [0, 0.5, 2, 2]
    cyclical = dataclasses.replace(linear, kl_schedule="cyclical")
    assert [cyclical.kl_weight(s) for s in (0, 25, 50, 99, 100, 125, 350)] == [0, 1, 2, 2, 0, 1, 2]
    assert VAEConfig(beta=0.5).kl_weight(7) == 0.5


@pytest.mark.parametrize("config", [MLP, CONV], ids=["mlp", "conv"])
def test_skip_decoder_sees_z_past_a_dead_layer(config):
    z = torch.randn(2, 3)
    for skip in (False, True):
        model = make(dataclasses.replace(config, skip=skip))
        dead = model.decoder.layers[1] if config.network == "mlp" else model.decoder.convs[0]
        dead.weight.data.zero_()
        a, b = model.decoder(z)
        assert bool((a - b).abs().max() > 1e-3) == skip


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 7, 5), (1, 1, 1), (2, 9, 32)])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_conv_networks_work_at_any_size(shape, likelihood):
    model = make(dataclasses.replace(CONV, likelihood=likelihood), shape)
    model.loss(to_signed(torch.full((2, *shape), 7, dtype=torch.uint8)), seed=0).backward()
    assert model.sample(2, seed=0).shape == (2, *shape)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_channels_last_and_neighbours_change_nothing_but_rounding():
    model, x = make(CONV).double(), images(4).double()
    want = model.posterior(x).mu
    alone = torch.cat([model.posterior(x[i : i + 1]).mu for i in range(4)])
    last = model.to(memory_format=torch.channels_last).posterior(x.to(memory_format=torch.channels_last)).mu
    assert max((alone - want).abs().max(), (last - want).abs().max()) < 1e-12


@pytest.mark.parametrize("config", [MLP, CONV], ids=["mlp", "conv"])
def test_autocast_gives_a_float32_loss_near_that_of_fp32(config):
    model, x = make(config), images(16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(x, seed=5)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(model.loss(x, seed=5).item(), rel=0.01)


def test_the_loss_is_a_function_of_its_seed():
    for cure in ("elbo", "iwae", "semi_amortized"):
        model, x = make(dataclasses.replace(MLP, **CURES[cure])), images(7)
        a = model.loss(x, seed=5)
        torch.manual_seed(9)
        assert torch.equal(a, model.loss(x, seed=5))
        assert not torch.equal(a, model.loss(x, seed=6))


# ---- Training and sampling -------------------------------------------------------------------------------------------


def test_twenty_steps_are_those_of_the_usual_code_and_of_the_reference_backend(tmp_path):
    fused = usual_vae.trained_twenty_steps(VAE.loss, torch.float64)
    usual = usual_vae.trained_twenty_steps(usual_loss, torch.float64)
    out = tmp_path / "weights.pt"
    environment = {**os.environ, "DGMKERN_BACKEND": "reference", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, usual_vae.__file__, str(out)], check=True, env=environment, cwd=ROOT)
    reference = torch.load(out)
    assert set(fused) == set(usual) == set(reference)
    for name, value in fused.items():
        assert (value - usual[name]).abs().max() < 1e-12, name
        # its fp32 normals may be an ulp away, and Adam divides by gradients however small
        assert (value - reference[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize(
    ("setting", "margin"),
    [
        ({}, 4.0),
        ({"samples": 5}, 4.0),
        ({"likelihood": "discretized_gaussian"}, 60.0),
        ({"network": "conv", "encoder": (16, 32), "decoder": (32, 16)}, 4.0),
    ],
    ids=["elbo", "iwae", "discretized", "conv"],
)
def test_training_on_digits_improves_the_likelihood_of_others(setting, margin):
    config = VAEConfig(**({"encoder": (128,), "decoder": (128,), "latent": 8} | setting))
    x, held_out = to_signed(load("digits").images), to_signed(load("digits", "test").images)
    torch.manual_seed(0)
    model = VAE(config, (1, 8, 8))
    with torch.no_grad():  # of the pixels' means: a model without latents
        mean = ((x + 1) / 2).mean(0).clamp(1e-3, 1 - 1e-3)
        pixels = -Bernoulli(mean, validate_args=False).log_prob((held_out + 1) / 2).sum((1, 2, 3)).mean().item()
    before = model.nll(held_out, 50, seed=0).mean().item()
    usual_vae.train(model, VAE.loss, x, 300, lr=2e-3)
    after = model.nll(held_out, 50, seed=0).mean().item()
    assert after < before - margin
    if config.likelihood == "bernoulli":
        assert after < pixels - 1


@pytest.mark.parametrize("config", [MLP, CONV], ids=["mlp", "conv"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_an_image_depends_on_seed_and_number_not_on_how_many_are_drawn(config, likelihood):
    model = make(dataclasses.replace(config, likelihood=likelihood))
    every = model.sample(6, seed=3)
    assert every.shape == (6, *SHAPE)
    assert every.abs().max() <= 1
    assert (model.sample(2, seed=3, first=4) - every[4:]).abs().max() < 1e-5
    assert (model.sample(6, seed=4) - every).abs().max() > 1e-3
    assert (every[0] - every[1]).abs().max() > 1e-3


def test_samples_are_means_of_the_decoder():
    z = normal((4, 3), 8)
    for likelihood in LIKELIHOODS:
        model = make(dataclasses.replace(MLP, likelihood=likelihood))
        out = model.decoder(z)[:, :2].detach()
        want = 2 * Bernoulli(logits=out).mean - 1 if likelihood == "bernoulli" else out.clamp(-1, 1)
        torch.testing.assert_close(model.sample(4, seed=8), want)


def test_progress_wraps_the_one_step_of_sampling():
    seen = []
    make(MLP).sample(1, seed=0, progress=lambda steps: seen.append(list(steps)) or [0])
    assert seen == [[0]]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"latent": 0}, "latent: got 0, want an integer >= 1"),
        ({"samples": 0}, "samples: got 0"),
        ({"kl_steps": 0}, "kl_steps: got 0"),
        ({"refinement_steps": 0}, "refinement_steps: got 0"),
        ({"encoder": (3, 0)}, r"encoder: got \(3, 0\), want 0 or more integers >= 1"),
        ({"network": "conv", "decoder": ()}, r"decoder: got \(\), want 1 or more"),
        ({"beta": -1.0}, "beta: got -1.0, want a finite number >= 0"),
        ({"free_bits": math.nan}, "free_bits: got nan"),
        ({"refinement_size": 0.0}, "refinement_size: got 0.0, want a finite number > 0"),
        ({"posterior_logvar": 0.5}, "posterior_logvar: got 0.5, want None or a finite number < 0"),
        ({"network": "unet"}, "network: unknown network 'unet', want one of mlp, conv"),
        ({"activation": "gelu"}, "activation: unknown activation 'gelu', want one of relu, silu, tanh"),
        ({"likelihood": "poisson"}, "unknown likelihood 'poisson', want one of bernoulli, gaussian, disc"),
        ({"kl_schedule": "cosine"}, "unknown kl_schedule 'cosine', want one of constant, linear, cyclical"),
        ({"refinement": "svi"}, "unknown refinement 'svi', want one of none, semi_amortized, hmc"),
        ({"free_bits": 0.1, "samples": 2}, "free_bits: got 0.1, want 0 with samples > 1 or a refinement"),
        ({"refinement": "hmc", "samples": 2}, "refinement: got 'hmc', want 'none' with samples > 1"),
    ],
)
def test_a_bad_setting_is_named_with_what_is_wanted(setting, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MLP, **setting)
