import dataclasses
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from dgmkern import normal
from dgmkern.data import load, to_signed
from dgmkern.models.vae import VAE, VAEConfig

ROOT = pathlib.Path(__file__).parents[2]
SHAPE = (2, 5, 6)
MLP = VAEConfig(encoder=(16, 12), decoder=(12, 16), latent=3)
CONV = dataclasses.replace(MLP, network="conv", encoder=(16, 32), decoder=(32, 16))
LIKELIHOODS = ["bernoulli", "gaussian", "discretized_gaussian"]
CURES = {
    "elbo": {},
    "beta": {"beta": 3.0},
    "linear": {"kl_schedule": "linear", "kl_steps": 40},
    "cyclical": {"kl_schedule": "cyclical", "kl_steps": 14},
    "free_bits": {"free_bits": 0.3},
    "fixed_variance": {"posterior_logvar": -1.5},
    "skip": {"skip": True},
    "iwae": {"samples": 5},
    "iwae_linear": {"samples": 2, "kl_schedule": "linear", "kl_steps": 40},
    "semi_amortized": {"refinement": "semi_amortized", "refinement_steps": 2},
    "semi_amortized_fixed": {"refinement": "semi_amortized", "posterior_logvar": -1.5, "refinement_size": 0.05},
}
STEP = 10  # of the loss: beta is 0.25 of a linear rise over 40 steps, 1 in the flat half of a cycle of 14


@pytest.fixture(autouse=True)
def one_thread(_reproducible):
    torch.set_num_threads(1)


def images(n: int, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    """Of 256 levels, 0 and 255 among them."""
    generator = torch.Generator().manual_seed(3)
    levels = torch.randint(0, 256, (n, *shape), generator=generator)
    levels[:, :, 0], levels[:, :, 1] = 0, 255
    return to_signed(levels.to(torch.uint8))


def make(config: VAEConfig, shape: tuple[int, int, int] = SHAPE) -> VAE:
    torch.manual_seed(1)
    model = VAE(config, shape)
    for p in model.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    return model


# ---- The loss, as it is usually written -----------------------------------------------------------------------------


def log_likelihood(model: VAE, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    out = model.decoder(z)
    if model.config.likelihood == "bernoulli":
        return Bernoulli(logits=out, validate_args=False).log_prob((x + 1) / 2).sum((1, 2, 3))
    if model.config.likelihood == "gaussian":
        return Normal(out, torch.exp(model.logvar / 2)).log_prob(x).sum((1, 2, 3))
    mean, log_scale = out[:, : x.shape[1]], out[:, x.shape[1] :]
    centred, sign = x - mean, torch.where(x > mean, -1.0, 1.0)  # mirrored into the lower tail, where digits are kept
    bounds = [(centred + side / 255) / torch.exp(log_scale) for side in (1, -1)]
    bounds = [bounds[0].masked_fill(x > 0.999, 1e3), bounds[1].masked_fill(x < -0.999, -1e3)]
    one, other = (torch.special.log_ndtr(sign * bound) for bound in bounds)
    larger, smaller = torch.maximum(one, other), torch.minimum(one, other)
    return (larger + torch.log(-torch.expm1(smaller - larger))).sum((1, 2, 3))


def posterior(model: VAE, x: torch.Tensor) -> list[torch.Tensor]:
    out, d = model.encoder(x), model.config.latent
    fixed = model.config.posterior_logvar
    return [out[:, :d], out[:, d:] if fixed is None else torch.full_like(out, fixed)]


def drawn(q: list[torch.Tensor], seed: int, stretch: int = 0) -> torch.Tensor:
    return q[0] + torch.exp(q[1] / 2) * normal(q[0].shape, seed, offset=stretch << 40, dtype=q[0].dtype)


def kl_per_unit(q: list[torch.Tensor]) -> torch.Tensor:
    return kl_divergence(Normal(q[0], torch.exp(q[1] / 2)), Normal(torch.zeros_like(q[0]), 1.0))


def usual_loss(model: VAE, x: torch.Tensor, seed: int, step: int) -> torch.Tensor:
    c, q = model.config, posterior(model, x)
    beta = c.beta
    if c.kl_schedule == "linear":
        beta *= min(step / c.kl_steps, 1)
    elif c.kl_schedule == "cyclical":
        beta *= min(step % c.kl_steps / (c.kl_steps / 2), 1)
    if c.samples > 1:
        p, std = Normal(0.0, 1.0), torch.exp(q[1] / 2)
        eps = normal((len(x), c.samples, c.latent), seed, dtype=x.dtype)
        log_weights = []
        for i in range(c.samples):
            z = q[0] + std * eps[:, i]
            log_ratio = (p.log_prob(z) - Normal(q[0], std).log_prob(z)).sum(1)
            log_weights.append(log_likelihood(model, x, z) + beta * log_ratio)
        return -(torch.stack(log_weights).logsumexp(0) - math.log(c.samples)).mean()
    if c.refinement == "semi_amortized":
        for i in range(c.refinement_steps):
            bound = log_likelihood(model, x, drawn(q, seed, 2 * i + 1)) - beta * kl_per_unit(q).sum(1)
            moving = q[:1] if c.posterior_logvar is not None else q
            slopes = torch.autograd.grad(bound.sum(), moving, create_graph=True)
            q = [p + c.refinement_size * g for p, g in zip(moving, slopes, strict=True)] + q[len(moving) :]
    kl = kl_per_unit(q)
    if c.free_bits:
        kl = torch.maximum(kl.mean(0), torch.tensor(c.free_bits, dtype=x.dtype)).sum()
    else:
        kl = kl.sum(1).mean()
    return beta * kl - log_likelihood(model, x, drawn(q, seed)).mean()


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


# ---- The bound ------------------------------------------------------------------------------------------------------


def linear_gaussian(d: int = 3) -> tuple[VAE, torch.Tensor, torch.Tensor]:
    """PPCA with orthogonal loadings, whose posterior is diagonal: (VAE with that encoder, data, log p(x)), fp64."""
    rng = np.random.default_rng(0)
    shape, pixels, sigma2 = (1, 3, 4), 12, 0.2
    loadings = np.linalg.qr(rng.standard_normal((pixels, d)))[0] * np.array([1.5, 0.9, 0.4])
    offset = 0.3 * rng.standard_normal(pixels)
    x = rng.standard_normal((64, d)) @ loadings.T + offset + math.sqrt(sigma2) * rng.standard_normal((64, pixels))
    covariance = loadings @ loadings.T + sigma2 * np.eye(pixels)
    centred = x - offset
    squares = (centred * np.linalg.solve(covariance, centred.T).T).sum(1)
    log_p = -(squares + np.linalg.slogdet(2 * math.pi * covariance)[1]) / 2
    precision = (loadings**2).sum(0) / sigma2 + 1  # of the posterior
    weights = loadings.T / sigma2 / precision[:, None]
    config = VAEConfig(encoder=(), decoder=(), latent=d, likelihood="gaussian")
    model = VAE(config, shape).double()
    values = {
        "encoder.1.weight": np.concatenate([weights, np.zeros_like(weights)]),
        "encoder.1.bias": np.concatenate([-weights @ offset, -np.log(precision)]),
        "decoder.layers.0.weight": loadings,
        "decoder.layers.0.bias": offset,
        "logvar": np.array(math.log(sigma2)),
    }
    model.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    return model, torch.from_numpy(x).reshape(-1, *shape), torch.from_numpy(log_p)


def test_with_the_exact_posterior_every_weight_is_the_likelihood():
    model, x, log_p = linear_gaussian()
    torch.testing.assert_close(model.log_weights(x, 4, seed=1), log_p[:, None].expand(-1, 4), rtol=0, atol=1e-12)
    torch.testing.assert_close(-model.nll(x, 7, seed=1), log_p, rtol=0, atol=1e-12)
    bounds = torch.stack([model.elbo(x, seed=2, offset=i << 40).bound.detach() for i in range(400)])
    error = bounds.std(0) / 20
    assert ((bounds.mean(0) - log_p).abs() < 5 * error).all()


def test_bound_rises_with_samples_to_the_log_likelihood():
    model, x, log_p = linear_gaussian()
    with torch.no_grad():
        model.encoder[1].bias[:3] += torch.tensor([0.3, -0.3, 0.4], dtype=torch.float64)
        model.encoder[1].bias[3:] += torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
        gaps = []
        for k in (1, 2, 5, 20, 100):
            c = dataclasses.replace(model.config, samples=k)
            model.config = c
            loss = np.mean([model.loss(x, seed=seed).item() for seed in range(200 // k + 20)])
            gaps.append(log_p.mean().item() + loss)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.5
    assert -0.02 < gaps[-1] < 0.05
    assert (log_p + model.nll(x, 4000, seed=0)).abs().max() < 0.05


def test_samples_of_nll_do_not_depend_on_the_batch():
    model, x = make(MLP).double(), images(9).double()
    every = model.nll(x, 120, seed=4)
    assert every.dtype == torch.float64
    torch.testing.assert_close(model.nll(x, 120, seed=4, batch=2), every, rtol=1e-12, atol=0)
    z = posterior(model, x)
    chunks = [
        z[0][:, None] + torch.exp(z[1] / 2)[:, None] * normal((9, n, 3), 4, offset=b << 40, dtype=torch.float64)
        for b, n in ((0, 50), (50, 50), (100, 20))
    ]
    log_weights = []
    for sample in torch.cat(chunks, 1).unbind(1):
        log_ratio = Normal(0.0, 1.0).log_prob(sample) - Normal(z[0], torch.exp(z[1] / 2)).log_prob(sample)
        log_weights.append(log_likelihood(model, x, sample) + log_ratio.sum(1))
    want = math.log(120) - torch.stack(log_weights).logsumexp(0)
    torch.testing.assert_close(every, want.detach(), rtol=1e-12, atol=0)


# ---- Training and sampling ------------------------------------------------------------------------------------------

STEPS = 20


def train(model: VAE, loss, x: torch.Tensor, steps: int, lr: float = 1e-3) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        batch = x[torch.arange(step * 64, step * 64 + 64) % len(x)]
        optimizer.zero_grad()
        loss(model, batch, seed=step, step=step).backward()
        optimizer.step()


def trained_twenty_steps(loss, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights of every kind of VAE after 20 steps on digits."""
    x, weights = to_signed(load("digits").images).to(dtype), {}
    for likelihood in LIKELIHOODS:
        for network, cure in ((MLP, "elbo"), (MLP, "iwae"), (MLP, "free_bits"), (CONV, "cyclical")):
            model = make(dataclasses.replace(network, likelihood=likelihood, **CURES[cure]), (1, 8, 8)).to(dtype)
            train(model, loss, x, STEPS)
            weights |= {f"{likelihood}-{cure}.{key}": value for key, value in model.state_dict().items()}
    return weights


def test_twenty_steps_are_those_of_the_usual_code_and_of_the_reference_backend(tmp_path):
    fused = trained_twenty_steps(VAE.loss, torch.float64)
    usual = trained_twenty_steps(usual_loss, torch.float64)
    out = tmp_path / "weights.pt"
    environment = {**os.environ, "DGMKERN_BACKEND": "reference", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, __file__, str(out)], check=True, env=environment, cwd=ROOT)
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
    train(model, VAE.loss, x, 300, lr=2e-3)
    after = model.nll(held_out, 50, seed=0).mean().item()
    print(before, pixels, after)
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


if __name__ == "__main__":  # run by test_twenty_steps..., with another backend
    torch.set_num_threads(1)
    torch.save(trained_twenty_steps(VAE.loss, torch.float64), sys.argv[1])
