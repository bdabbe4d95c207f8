"""The samplers: streams of images, diffusers as a peer on the same network, guidance."""

import dataclasses
import math

import diffusers
import pytest
import torch
from ddpm_cases import TINY, perturbed

from dgmkern import normal, p_sample
from dgmkern.data import load, to_signed
from dgmkern.models.ddpm import DDPM, DDPMConfig
from dgmkern.schedule import DiffusionSchedule

SAMPLERS = {
    "ddpm": {},
    "respaced": {"steps": 7},
    "ddim": {"sampler": "ddim", "steps": 7},
    "ddim, noisy": {"sampler": "ddim", "eta": 0.5},
    "dpm-solver": {"sampler": "dpm-solver", "steps": 7},
}
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


pytestmark = pytest.mark.usefixtures("one_thread")


def make(**settings) -> DDPM:
    return perturbed(DDPM(dataclasses.replace(TINY, **settings), (1, 8, 8))).eval()


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
@pytest.mark.parametrize("how", SAMPLERS.values(), ids=SAMPLERS)
def test_a_perfect_network_samples_the_one_image_it_knows(prediction, how):
    image = to_signed(load("digits").images[:1])
    model = DDPM(DDPMConfig(channels=16, head_dim=32, timesteps=50, prediction=prediction), (1, 8, 8))
    s = model.schedule

    class Oracle(torch.nn.Module):
        def forward(self, x_t, t, labels=None):
            a, b = s.sqrt_alphas_cumprod[t[0]].item(), s.sqrt_one_minus_alphas_cumprod[t[0]].item()
            eps = (x_t - a * image) / b
            return {"eps": eps, "x0": image.expand_as(x_t), "v": a * eps - b * image}[prediction]

    model.unet = Oracle()
    model.register_parameter("device_of", torch.nn.Parameter(torch.zeros(())))
    assert (model.sample(3, seed=0, **how) - image).abs().max() < 1e-4


@pytest.mark.parametrize("how", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_an_image_depends_on_seed_and_number_not_on_how_many_are_drawn(how, variance):
    learned = variance == "learned_range"
    model = make(variance=variance, objective="hybrid" if learned else "simple")
    model.unet.head.weight.data.mul_(0.1)
    every = model.sample(6, seed=3, **how)
    assert (model.sample(2, seed=3, first=4, **how) - every[4:]).abs().max() < 1e-4
    assert (model.sample(6, seed=4, **how) - every).abs().max() > 0.1
    assert (every[0] - every[1]).abs().max() > 0.1


def test_sampling_walks_all_steps_under_the_progress_wrapper():
    model, seen = DDPM(TINY, (1, 8, 8)), []

    def progress(steps):
        for t in steps:
            seen.append(t)
            yield t

    model.sample(1, seed=0, progress=progress)
    assert seen == list(range(19, -1, -1))
    seen.clear()
    model.sample(1, seed=0, progress=progress, steps=4)
    assert seen == [3, 2, 1, 0]


def test_the_network_is_asked_at_the_steps_it_was_trained_on():
    model, asked = make(), []
    model.unet.register_forward_pre_hook(lambda _, args: asked.append(args[1].tolist()))
    model.sample(2, seed=0, steps=4)
    assert asked == [[19, 19], [13, 13], [6, 6], [0, 0]]


def peer_scheduler(kind, model: DDPM, **settings):
    """A scheduler of diffusers with the model's schedule, in fp64."""
    s, prediction = model.schedule, PREDICTIONS[model.config.prediction]
    betas = {"trained_betas": s.betas.tolist(), "num_train_timesteps": s.steps}
    peer = kind(**betas, prediction_type=prediction, **settings)
    peer.betas, peer.alphas, peer.alphas_cumprod = s.betas, s.alphas, s.alphas_cumprod
    return peer


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_is_diffusers_run_on_the_same_network(prediction):
    """19 steps, of which every other one is taken: with a stride of 19 // 9 diffusers goes the same way."""
    model = make(prediction=prediction, timesteps=19)
    peer = peer_scheduler(diffusers.DDIMScheduler, model, clip_sample=True)
    peer.num_inference_steps = 9
    x = normal((3, 1, 8, 8), 5)
    for t in range(18, -1, -2):
        with torch.no_grad():
            out = model(x, torch.full((3,), t))
        x = peer.step(out, t, x, use_clipped_model_output=True).prev_sample.float()
    got = model.sample(3, seed=5, sampler="ddim", steps=10)
    assert (got - x).abs().max() < 1e-3
    assert x.std() > 0.1


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [7, 20])
def test_dpm_solver_is_diffusers_run_on_the_same_network(prediction, steps):
    model = make(prediction=prediction)
    # a quantile of 1 and a largest value of 1: x_0 is clamped to [-1, 1]
    clamp = {"thresholding": True, "dynamic_thresholding_ratio": 1.0, "sample_max_value": 1.0}
    solver = {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero", "solver_order": 2}
    peer = peer_scheduler(diffusers.DPMSolverMultistepScheduler, model, **solver, **clamp)
    peer.set_timesteps(timesteps=model.schedule.respaced(steps).timesteps.flip(0).tolist())
    x = normal((3, 1, 8, 8), 5)
    for t in peer.timesteps.tolist():
        with torch.no_grad():
            out = model(x, torch.full((3,), t))
        x = peer.step(out, t, x).prev_sample.float()
    got = model.sample(3, seed=5, sampler="dpm-solver", steps=steps)
    assert (got - x).abs().max() < 2e-3
    assert x.std() > 0.1


def test_ddim_with_eta_one_and_all_steps_is_ancestral_sampling():
    model = make()
    assert (model.sample(4, seed=1, sampler="ddim", eta=1.0) - model.sample(4, seed=1)).abs().max() < 1e-3
    assert (model.sample(4, seed=1, sampler="ddim", eta=0.5) - model.sample(4, seed=1)).abs().max() > 0.05


@pytest.mark.parametrize("how", SAMPLERS.values(), ids=SAMPLERS)
def test_guidance_one_is_the_class_and_guidance_zero_is_no_class(how):
    model = make(classes=3)
    labels = torch.tensor([0, 1, 2, 2])
    given = model.sample(4, seed=2, labels=labels, **how)
    none = model.sample(4, seed=2, **how)
    assert torch.equal(model.sample(4, seed=2, labels=labels, guidance=0.0, **how), none)
    # an epsilon away both passes are taken
    assert (model.sample(4, seed=2, labels=labels, guidance=1 + 1e-6, **how) - given).abs().max() < 1e-2
    assert (given - none).abs().max() > 0.05
    other = model.sample(2, seed=2, first=2, labels=labels[2:], **how)
    assert (other - given[2:]).abs().max() < 1e-4


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_guidance_extrapolates_from_no_class_through_the_class(variance):
    """In one step a network that predicts x_0 gives the sample itself."""
    learned = variance == "learned_range"
    model = make(classes=3, prediction="x0", variance=variance, objective="hybrid" if learned else "simple")
    labels, x, t = torch.tensor([0, 2]), normal((2, 1, 8, 8), 2), torch.full((2,), 19)
    with torch.no_grad():
        of_class, of_none = model(x, t, labels)[:, :1], model(x, t)[:, :1]
    got = model.sample(2, seed=2, steps=1, sampler="ddim", labels=labels, guidance=2.5)
    want = (of_class + 1.5 * (of_class - of_none)).clamp(-1, 1)
    assert (got - want).abs().max() < 1e-4
    assert (want.abs() < 1).double().mean() > 0.1


def test_ancestral_noise_under_guidance_has_the_variance_of_the_class():
    """The last but one state of a chain of two steps, from both passes by Ho et al.'s equations in fp64."""
    model = make(classes=3, prediction="x0", variance="learned_range", objective="hybrid")
    labels, guidance, s = torch.tensor([0, 2]), 1.7, model.schedule.respaced(2)
    x = normal((2, 1, 8, 8), 2)
    states = []
    handle = model.unet.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0][:2].double()))
    model.sample(2, seed=2, steps=2, labels=labels, guidance=guidance)
    handle.remove()
    t = s.timesteps[1].expand(2)
    with torch.no_grad():
        of_class, of_none = model(x, t, labels).double(), model(x, t).double()
    assert (of_class[:, 1:] - of_none[:, 1:]).abs().max() > 0.05
    x0 = (of_none[:, :1] + guidance * (of_class[:, :1] - of_none[:, :1])).clamp(-1, 1)
    before, now = s.alphas_cumprod.tolist()
    beta = 1 - now / before
    mean = before**0.5 * beta / (1 - now) * x0 + (now / before) ** 0.5 * (1 - before) / (1 - now) * x
    share = (of_class[:, 1:] + 1) / 2  # Nichol & Dhariwal 2021, equation 15
    smallest = beta * (1 - before) / (1 - now)
    variance = torch.exp(share * math.log(beta) + (1 - share) * math.log(smallest))
    want = mean + variance.sqrt() * normal((2, 1, 8, 8), 2, offset=2 << 40).double()
    assert (states[1] - want).abs().max() < 1e-4


def test_no_class_of_a_model_that_was_not_taught_it_is_refused():
    model = make(classes=3, label_dropout=0.0)
    labels = torch.tensor([0, 1])
    model.sample(2, seed=2, steps=2, labels=labels)
    for wrong in ({}, {"labels": labels, "guidance": 0.0}, {"labels": labels, "guidance": 2.0}):
        with pytest.raises(ValueError, match=r"labels, guidance: got some without a class.*label_dropout was 0"):
            model.sample(2, seed=2, steps=2, **wrong)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"sampler": "euler"}, "unknown sampler 'euler', want one of ddpm, ddim, dpm-solver"),
        ({"eta": 0.5}, "eta: got 0.5 with sampler ddpm, want 0"),
        ({"steps": 21}, "steps: expected 1 to 20, got 21"),
        ({"guidance": 2.0}, "guidance: got 2.0 without labels"),
        ({"labels": torch.tensor([0, 1])}, "labels: got some, want None: the model has no classes"),
    ],
)
def test_bad_arguments_of_sampling_are_named(how, message):
    with pytest.raises(ValueError, match=message):
        make().sample(2, seed=0, **how)
