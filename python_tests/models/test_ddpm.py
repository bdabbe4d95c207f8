"""The DDPM's settings and its losses."""

import dataclasses
import math

import pytest
import torch
from ddpm_cases import TINY, decoder_nll, drawn_steps, perturbed, posterior, predicted_x0
from torch.distributions import Normal, kl_divergence

import dgmkern
from dgmkern.data import load, to_signed
from dgmkern.models import model_classes
from dgmkern.models.ddpm import DDPM
from dgmkern.reference.noise import uniform

pytestmark = pytest.mark.usefixtures("one_thread")


VARIANTS = {
    "simple": {},
    "min-snr": {"min_snr": 5.0},
    "hybrid": {"objective": "hybrid", "variance": "learned_range"},
    "hybrid, min-snr": {"objective": "hybrid", "variance": "learned_range", "min_snr": 5.0},
    "vlb": {"objective": "vlb", "variance": "learned_range"},
    "vlb, fixed": {"objective": "vlb", "variance": "fixed_large"},
}


def make(image_channels: int = 1, **settings) -> DDPM:
    return perturbed(DDPM(dataclasses.replace(TINY, **settings), (image_channels, 8, 8)))


def test_defaults_keep_the_weights_and_the_loss_that_checkpoints_were_made_with():
    """Weights of the version with the simple loss alone; the loss since t comes from the seed's own stream."""
    torch.manual_seed(0)
    model = DDPM(TINY, (1, 8, 8))
    state = model.state_dict()
    assert len(state) == 128
    assert {name.split(".")[0] for name in state} == {"unet"}
    assert abs(sum(p.double().abs().sum().item() for p in state.values()) - 6511.428292945266) < 1e-3
    loss = perturbed(model).loss(to_signed(load("digits").images[:16]), seed=5)
    assert abs(loss.item() - 1.904287576675415) < 2e-6


def test_the_default_loss_is_the_simple_one_bit_for_bit():
    model, x0, seed = make(), to_signed(load("digits").images[:16]), 5
    t = drawn_steps(20, 16, seed)
    out = model.unet(dgmkern.q_sample(x0, t, model.schedule, seed=seed), t)
    want = dgmkern.diffusion_mse(out, x0, t, model.schedule, seed=seed, prediction="v").mean()
    assert torch.equal(model.loss(x0, seed=seed), want)


@pytest.mark.parametrize("variant", [*VARIANTS, "classes"])
def test_every_parameter_gets_a_gradient(variant):
    model = make(**VARIANTS.get(variant, {"classes": 3, "label_dropout": 0.5}))
    labels = torch.arange(32) % 3 if variant == "classes" else None
    model.loss(torch.randn(32, 1, 8, 8).clamp(-1, 1), seed=0, labels=labels).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


def reference_losses(model: DDPM, x0, seed: int):
    """The squared errors (weighted) and the terms of the bound of `DDPM.loss`, from the papers, in fp64."""
    config, s, n = model.config, model.schedule, len(x0)
    t = drawn_steps(s.steps, n, seed)
    abar = torch.cumprod(1 - s.betas, 0)[t].reshape(-1, 1, 1, 1)
    eps = dgmkern.normal(x0.shape, seed, dtype=torch.float64)
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * eps
    out = model.unet(x_t, t)
    out, v = out[:, : x0.shape[1]], out[:, x0.shape[1] :]
    target = {"eps": eps, "x0": x0, "v": abar.sqrt() * eps - (1 - abar).sqrt() * x0}[config.prediction]
    mse = ((out - target) ** 2).mean((1, 2, 3))
    if config.min_snr is not None:
        snr = (abar / (1 - abar)).flatten()
        by = {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1}[config.prediction]
        mse = mse * snr.clamp(max=config.min_snr) / by
    predicted = predicted_x0(config.prediction, out, x_t, abar)
    if config.objective == "hybrid":
        predicted = predicted.detach()
    mean_q, small, large = posterior(s, x0, x_t, t)
    mean_p, _, _ = posterior(s, predicted, x_t, t)
    at_0 = (t == 0).reshape(-1, 1, 1, 1)
    large_or_small = torch.where(at_0, small, large)
    logvar = {"fixed_small": small, "fixed_large": large_or_small}.get(config.variance)
    if logvar is None:
        logvar = (v + 1) / 2 * large + (1 - v) / 2 * small
    std = (logvar / 2).exp().expand_as(mean_p)
    kl = kl_divergence(Normal(mean_q, (small / 2).exp().expand_as(mean_q)), Normal(mean_p, std))
    nll = decoder_nll(x0, torch.where(at_0, mean_p, x0), std)  # elsewhere its mass may be 0
    return mse, torch.where(at_0, nll, kl).mean((1, 2, 3)) / math.log(2)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_are_those_of_the_papers_in_fp64(variant, prediction):
    model = make(2, prediction=prediction, **VARIANTS[variant]).double()
    model.unet.head.weight.data.mul_(0.05)  # the mass of x_0's bin stays above the least fp64 number
    x0 = to_signed(load("digits").images[:64]).reshape(32, 2, 8, 8).double()
    mse, vb = reference_losses(model, x0, seed=3)
    if variant.startswith("vlb"):
        prior = model.schedule.alphas_cumprod[-1]
        kl = kl_divergence(Normal(prior.sqrt() * x0, (1 - prior).sqrt()), Normal(torch.zeros_like(x0), 1.0))
        want = 20 * vb.mean() + kl.mean() / math.log(2)
    else:
        want = (mse + (0.001 * 20 * vb if variant.startswith("hybrid") else 0)).mean()
    got = model.loss(x0, seed=3)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=0)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(want, parameters)
    for g, e in zip(torch.autograd.grad(got, parameters), expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-7, atol=1e-9 * max(g.abs().max() for g in expected))


def test_importance_sampled_steps_are_weighted_and_remembered_in_training_mode_only():
    model = make(objective="vlb", variance="learned_range", step_sampling="loss-second-moment")
    x0 = to_signed(load("digits").images[:64])
    model.eval().loss(x0, seed=0)
    assert model.step_sampler.seen.sum() == 0
    model.train()
    for seed in range(16):
        model.loss(x0, seed=seed)
    assert model.step_sampler.seen.sum() == 16 * 64
    assert (model.step_sampler.seen >= 10).all()
    t, weight = model.step_sampler.draw(uniform(64, torch.tensor([99]), 1 << 40))
    s, how = model.schedule, {"prediction": "v", "variance": "learned_range"}
    x_t = dgmkern.q_sample(x0, t, s, seed=99)
    terms = dgmkern.vb_terms(model.unet(x_t, t), x0, x_t, t, s, **how)
    want = (20 * weight * terms).mean() + dgmkern.prior_bound(x0, s).mean()
    assert abs(model.eval().loss(x0, seed=99).item() - want.item()) < 1e-5 * want.item()


@pytest.mark.parametrize("step_sampling", ["uniform", "loss-second-moment"])
def test_the_mean_of_the_bounds_loss_is_bits_per_dim(step_sampling):
    model = make(objective="vlb", variance="learned_range", step_sampling=step_sampling)
    x0 = to_signed(load("digits").images[:4])
    if step_sampling != "uniform":
        for seed in range(8):
            model.loss(x0.repeat(64, 1, 1, 1), seed=seed)
    model.eval()
    many = x0.repeat(128, 1, 1, 1)
    with torch.no_grad():
        losses = torch.stack([model.loss(many, seed=100 + seed) for seed in range(16)])
    want = model.bits_per_dim(x0.repeat(16, 1, 1, 1), seed=0, clip=None).total.mean()
    assert abs(losses.mean() - want) < 5 * losses.std() / 4 + 0.01 * want
    assert losses.std() / 4 < 0.03 * want  # a missing factor T, or weights, would show


def test_labels_are_hidden_with_the_probability_asked_for():
    x0 = to_signed(load("digits").images[:64])
    zeros, ones = torch.zeros(64, dtype=torch.int64), torch.ones(64, dtype=torch.int64)
    hidden = make(classes=2, label_dropout=1.0)
    assert torch.equal(hidden.loss(x0, seed=0, labels=zeros), hidden.loss(x0, seed=0, labels=ones))
    seen = []
    model = make(classes=2, label_dropout=0.3)
    model.unet.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    for seed in range(50):
        model.loss(x0[:64], seed=seed, labels=ones)
    labels = torch.cat(seen)
    assert set(labels.tolist()) == {1, 2}  # 2: no class
    assert abs((labels == 2).double().mean() - 0.3) < 5 * math.sqrt(0.21 / 3200)
    shown = make(classes=2, label_dropout=0.0)
    assert not torch.equal(shown.loss(x0, seed=0, labels=zeros), shown.loss(x0, seed=0, labels=ones))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (None, ValueError, "labels: got None, want one of 3 classes"),
        (torch.zeros(4), TypeError, "labels: got torch.float32, want an int64 tensor"),
        ([0, 1, 2, 0], TypeError, "labels: got list"),
        (torch.tensor([0, 1]), ValueError, r"labels: got shape \(2,\), want \(4,\)"),
        (torch.tensor([0, 1, 2, 3]), ValueError, "labels: got 0 to 3, want classes 0 to 2"),
        (torch.tensor([0, -1, 2, 2]), ValueError, "labels: got -1 to 2"),
    ],
)
def test_bad_labels_are_named(labels, error, message):
    with pytest.raises(error, match=message):
        make(classes=3).loss(torch.zeros(4, 1, 8, 8), seed=0, labels=labels)


def test_the_loss_of_a_zero_network_is_the_second_moment_of_its_target():
    x0 = to_signed(load("digits").images[:512])
    for prediction, want in (("eps", 1.0), ("x0", x0.square().mean().item())):
        model = DDPM(dataclasses.replace(TINY, prediction=prediction), (1, 8, 8))  # its last layer starts at zero
        assert abs(model.loss(x0, seed=0).item() - want) < 0.03  # 32768 normals: standard deviation 0.008


def test_the_loss_is_a_function_of_its_seed():
    model = perturbed(DDPM(TINY, (1, 8, 8)))
    x0 = torch.randn(8, 1, 8, 8)
    torch.manual_seed(0)
    a = model.loss(x0, seed=5)
    torch.manual_seed(1)
    assert torch.equal(a, model.loss(x0, seed=5))
    assert not torch.equal(a, model.loss(x0, seed=6))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"channels": 0}, "channels: got 0"),
        ({"channels": 15}, "channels: got 15, want an even number"),
        ({"multipliers": ()}, "multipliers: got"),
        ({"head_dim": 24}, "head_dim: got 24, want a divisor of the 32 channels"),
        ({"dropout": 1.0}, "dropout: got 1.0"),
        ({"timesteps": 0}, "timesteps: got 0"),
        ({"schedule": "quadratic"}, "unknown schedule 'quadratic', want one of linear, cosine, sigmoid"),
        ({"prediction": "score"}, "unknown prediction 'score', want one of eps, v, x0"),
        ({"variance": "learned"}, "unknown variance 'learned', want one of fixed_small, fixed_large, learned_range"),
        ({"objective": "elbo"}, "unknown objective 'elbo', want one of simple, hybrid, vlb"),
        ({"objective": "hybrid"}, "objective: got hybrid with variance fixed_small, want simple or vlb"),
        ({"variance": "learned_range"}, "objective: got simple with variance learned_range, want hybrid or vlb"),
        ({"vb_weight": 0.0}, "vb_weight: got 0.0, want a finite number > 0"),
        ({"vb_weight": math.inf}, "vb_weight: got inf, want a finite number > 0"),
        ({"min_snr": -1.0}, "min_snr: got -1.0"),
        ({"min_snr": math.inf}, "min_snr: got inf with objective simple, want a finite number > 0"),
        ({"min_snr": 5.0, "objective": "vlb"}, "min_snr: got 5.0 with objective vlb"),
        ({"step_sampling": "snr"}, "unknown step_sampling 'snr', want one of uniform, loss-second-moment"),
        ({"classes": -1}, "classes: got -1, want an integer >= 0"),
        ({"label_dropout": 1.5}, "label_dropout: got 1.5, want 0 <= label_dropout <= 1"),
    ],
)
def test_a_bad_setting_is_named_with_what_is_wanted(setting, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **setting)


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown model 'pixelcnn', want one of .*ddpm"):
        model_classes("pixelcnn")
