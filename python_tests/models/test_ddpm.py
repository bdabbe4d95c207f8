import dataclasses

import pytest
import torch

from dgmkern import p_sample
from dgmkern.data import load, to_signed
from dgmkern.models import model_classes
from dgmkern.models.ddpm import DDPM, DDPMConfig, UNet
from dgmkern.schedule import DiffusionSchedule

TINY = DDPMConfig(channels=16, head_dim=32, timesteps=20)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """Weights away from the zero initialization of the last layers, so that everything takes part."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 7, 5), (1, 1, 1), (2, 9, 32)])
@pytest.mark.parametrize("multipliers", [(2,), (1, 2), (1, 2, 2)])
def test_unet_returns_the_shape_it_was_given_for_any_size(shape, multipliers):
    unet = perturbed(UNet(dataclasses.replace(TINY, multipliers=multipliers), shape[0]))
    x = torch.randn(2, *shape)
    out = unet(x, torch.tensor([0, 19]))
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert out.std() > 0


def test_every_parameter_gets_a_gradient():
    model = perturbed(DDPM(TINY, (1, 8, 8)))
    model.loss(torch.randn(4, 1, 8, 8), seed=0).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


def test_the_network_sees_the_time_step():
    unet = perturbed(UNet(TINY, 1))
    x = torch.randn(1, 1, 8, 8).expand(2, -1, -1, -1)
    early, late = unet(x, torch.tensor([0, 19]))
    assert (early - late).abs().max() > 1e-3


def test_images_of_a_batch_do_not_mix():
    unet = perturbed(UNet(TINY, 1)).double()
    x, t = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([1, 5, 9])
    alone = torch.cat([unet(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    assert (unet(x, t) - alone).abs().max() < 1e-12


def test_channels_last_changes_nothing_but_rounding():
    unet = perturbed(UNet(TINY, 1)).double()
    x, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([1, 9])
    want = unet(x, t)
    got = unet.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), t)
    assert (got - want).abs().max() < 1e-12


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


def diffusers_step(model_out, x_t, t, betas, prediction, noise):
    """diffusers' DDPMScheduler.step (fixed_small, clip_sample), as its source has it, in fp64."""
    alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
    alpha_prod_t = alphas_cumprod[t]
    alpha_prod_t_prev = alphas_cumprod[t - 1] if t > 0 else torch.tensor(1.0, dtype=torch.float64)
    beta_prod_t, beta_prod_t_prev = 1 - alpha_prod_t, 1 - alpha_prod_t_prev
    current_alpha_t = alpha_prod_t / alpha_prod_t_prev
    current_beta_t = 1 - current_alpha_t
    if prediction == "eps":
        x0 = (x_t - beta_prod_t**0.5 * model_out) / alpha_prod_t**0.5
    elif prediction == "v":
        x0 = alpha_prod_t**0.5 * x_t - beta_prod_t**0.5 * model_out
    else:
        x0 = model_out
    x0 = x0.clamp(-1, 1)
    mean = (alpha_prod_t_prev**0.5 * current_beta_t) / beta_prod_t * x0
    mean = mean + current_alpha_t**0.5 * beta_prod_t_prev / beta_prod_t * x_t
    variance = torch.clamp(beta_prod_t_prev / beta_prod_t * current_beta_t, min=1e-20)
    return mean + variance**0.5 * noise if t > 0 else mean


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("schedule", [DiffusionSchedule.linear(200), DiffusionSchedule.cosine(200)], ids=["lin", "cos"])
def test_the_posterior_step_is_diffusers_in_fp64_at_every_t(prediction, schedule):
    torch.manual_seed(0)
    worst = 0.0
    for t in range(schedule.steps):
        model_out, x_t, noise = torch.randn(3, 2, 1, 4, 4, dtype=torch.float64)
        got = p_sample(model_out, x_t, t, schedule, prediction=prediction, clip=1.0, noise=noise)
        want = diffusers_step(model_out, x_t, t, schedule.betas, prediction, noise)
        worst = max(worst, (got - want).abs().max().item())
    assert worst < 1e-11


def test_the_last_step_adds_no_noise():
    s = DiffusionSchedule.cosine(20)
    model_out, x_t = torch.randn(2, 1, 1, 4, 4)
    with_noise = p_sample(model_out, x_t, 0, s, noise=torch.full_like(x_t, 1e6))
    without = p_sample(model_out, x_t, 0, s, noise=torch.zeros_like(x_t))
    assert torch.equal(with_noise, without)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_a_perfect_network_samples_the_one_image_it_knows(prediction):
    image = to_signed(load("digits").images[:1])
    model = DDPM(DDPMConfig(channels=16, head_dim=32, timesteps=50, prediction=prediction), (1, 8, 8))
    s = model.schedule

    class Oracle(torch.nn.Module):
        def forward(self, x_t, t):
            a, b = s.sqrt_alphas_cumprod[t[0]].item(), s.sqrt_one_minus_alphas_cumprod[t[0]].item()
            eps = (x_t - a * image) / b
            return {"eps": eps, "x0": image.expand_as(x_t), "v": a * eps - b * image}[prediction]

    model.unet = Oracle()
    model.register_parameter("device_of", torch.nn.Parameter(torch.zeros(())))
    assert (model.sample(3, seed=0) - image).abs().max() < 1e-4


def test_an_image_depends_on_seed_and_number_not_on_how_many_are_drawn():
    model = perturbed(DDPM(TINY, (1, 8, 8)))
    every = model.sample(6, seed=3)
    assert (model.sample(2, seed=3, first=4) - every[4:]).abs().max() < 1e-4
    assert (model.sample(6, seed=4) - every).abs().max() > 0.1
    assert (every[0] - every[1]).abs().max() > 0.1


def test_sampling_walks_all_steps_under_the_progress_wrapper():
    model, seen = DDPM(TINY, (1, 8, 8)), []

    def progress(steps):
        for t in steps:
            seen.append(t)
            yield t

    model.sample(1, seed=0, progress=progress)
    assert seen == list(range(19, -1, -1))


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
    ],
)
def test_a_bad_setting_is_named_with_what_is_wanted(setting, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **setting)


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown model 'pixelcnn', want one of vae, gan, ddpm"):
        model_classes("pixelcnn")
