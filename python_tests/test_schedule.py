"""Schedules against diffusers' and guided-diffusion's closed forms, written out in fp64, and against mpmath."""

import math

import mpmath
import numpy as np
import pytest
import torch

from dgmkern import DiffusionSchedule

ALL = {
    "linear": DiffusionSchedule.linear(1000),
    "linear100": DiffusionSchedule.linear(100),
    "cosine": DiffusionSchedule.cosine(1000),
    "sigmoid": DiffusionSchedule.sigmoid(1000),
    "betas": DiffusionSchedule.from_betas([0.1, 0.2, 0.3]),
    "one": DiffusionSchedule.from_betas([0.5]),
    "respaced": DiffusionSchedule.cosine(1000).respaced(50),
    "zero_snr": DiffusionSchedule.linear(1000).zero_terminal_snr(),
}


def test_tables_are_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):  # of whose tensors no number can be read
        made = {
            "linear": DiffusionSchedule.linear(1000),
            "sigmoid": DiffusionSchedule.sigmoid(1000),
            "betas": DiffusionSchedule.from_betas([0.1, 0.2, 0.3]),
            "respaced": DiffusionSchedule.cosine(1000).respaced(50),
            "zero_snr": DiffusionSchedule.linear(1000).zero_terminal_snr(),
        }
        assert made["linear"].respaced(1).timesteps.tolist() == [999]
    for name, schedule in made.items():
        assert torch.equal(schedule.p_table("cpu"), ALL[name].p_table("cpu"))
        assert torch.equal(schedule.timesteps, ALL[name].timesteps)


def test_linear_is_ddpm_at_1000_steps():
    np.testing.assert_allclose(ALL["linear"].betas, np.linspace(1e-4, 0.02, 1000), rtol=1e-14)
    np.testing.assert_allclose(ALL["linear100"].betas, np.linspace(1e-3, 0.2, 100), rtol=1e-14)


def test_cosine_is_nichol_and_dhariwal():
    def abar(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - abar((i + 1) / 1000) / abar(i / 1000), 0.999) for i in range(1000)]
    np.testing.assert_allclose(ALL["cosine"].betas, betas, rtol=1e-10)


def test_sigmoid_runs_from_all_signal_to_none():
    abar = ALL["sigmoid"].alphas_cumprod
    assert abar[0] > 0.999
    assert abar[-1] < 1e-3
    np.testing.assert_allclose(abar[499], 0.5, atol=1e-12)  # symmetric about the middle


@pytest.mark.parametrize("name", ALL)
def test_tables_hold_their_definitions_to_12_digits(name):
    s = ALL[name]
    mpmath.mp.dps = 40
    abar = mpmath.mpf(1)
    for i, beta in enumerate(s.betas.tolist()):
        previous, beta = abar, mpmath.mpf(beta)
        abar *= 1 - beta
        if i not in (0, 1, 2, s.steps // 2, s.steps - 1):
            continue
        expected = {
            "alphas_cumprod": abar,
            "alphas_cumprod_prev": previous,
            "sqrt_alphas_cumprod": mpmath.sqrt(abar),
            "sqrt_one_minus_alphas_cumprod": mpmath.sqrt(1 - abar),
            "posterior_variance": beta * (1 - previous) / (1 - abar),
            "posterior_mean_coef1": beta * mpmath.sqrt(previous) / (1 - abar),
            "posterior_mean_coef2": (1 - previous) * mpmath.sqrt(1 - beta) / (1 - abar),
            "snr": abar / (1 - abar),
        }
        for table, value in expected.items():
            assert getattr(s, table)[i].item() == pytest.approx(float(value), rel=1e-12, abs=1e-300), (table, i)


@pytest.mark.parametrize("name", ALL)
def test_log_variance_is_finite_and_clipped_at_the_second_step(name):
    s = ALL[name]
    assert s.posterior_log_variance_clipped.isfinite().all()
    if s.steps > 1:
        assert s.posterior_log_variance_clipped[0] == s.posterior_log_variance_clipped[1]


def test_respaced_keeps_abar_and_maps_the_steps():
    s, r = ALL["cosine"], ALL["respaced"]
    assert r.steps == 50
    assert r.timesteps[0] == 0
    assert r.timesteps[-1] == 999
    np.testing.assert_allclose(r.alphas_cumprod, s.alphas_cumprod[r.timesteps], rtol=1e-11)


def test_zero_terminal_snr_ends_in_noise_and_keeps_the_first_step():
    s = ALL["zero_snr"]
    assert s.alphas_cumprod[-1] == 0
    assert s.alphas_cumprod[0].item() == pytest.approx(ALL["linear"].alphas_cumprod[0].item(), rel=1e-12)


def test_from_diffusers_takes_any_object_with_betas():
    class Scheduler:
        betas = torch.linspace(1e-4, 0.02, 1000)

    s = DiffusionSchedule.from_diffusers(Scheduler())
    np.testing.assert_allclose(s.betas, Scheduler.betas.double())
    with pytest.raises(TypeError, match="scheduler"):
        DiffusionSchedule.from_diffusers(object())


def test_device_tables_are_made_once():
    s = DiffusionSchedule.linear(100)
    assert s.q_table("cpu") is s.q_table(torch.device("cpu"))
    assert s.q_table("meta") is s.q_table("meta")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DiffusionSchedule.linear(10), ValueError, "steps"),
        (lambda: DiffusionSchedule.linear(0), ValueError, "steps"),
        (lambda: DiffusionSchedule.cosine(1.5), TypeError, "steps"),
        (lambda: DiffusionSchedule.cosine(True), TypeError, "steps"),
        (lambda: DiffusionSchedule.from_betas([0.1, 0.0]), ValueError, r"betas.*0\.0 at step 1"),
        (lambda: DiffusionSchedule.from_betas([0.1, float("nan")]), ValueError, "betas"),
        (lambda: DiffusionSchedule.from_betas([]), ValueError, "betas"),
        (lambda: DiffusionSchedule.from_betas([[0.1]]), ValueError, "betas"),
        (lambda: DiffusionSchedule.sigmoid(10, start=1, end=0), ValueError, "start"),
        (lambda: DiffusionSchedule.linear(100).respaced(101), ValueError, "steps"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
