"""The whole steps: ours are checked, and checked well enough to notice a wrong one; processes take turns."""

import math

import pytest
import torch

from dgmkern.models.ddpm import DDPM
from dgmkern.models.gan import GAN
from dgmkern.models.vae import VAE
from perf import __main__ as harness
from perf import gpu_steps
from perf.case import Setting, Target
from perf.steps import run as steps_run
from perf.steps.case import StepCase, step_cases
from perf.steps.worker import Worker
from perf.timing import Plan

CASES = step_cases()
SETTING = Setting(threads=1)
PLAN = Plan(rounds=3, min_rounds=2, budget=0.1, min_sample=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_our_steps_pass_their_checks(name, one_thread):
    torch.manual_seed(0)
    CASES[name].check()


def a_little_wrong(method):
    """The value, and its gradient times 1.001."""

    def wrong(self, *args, **kwargs):
        value = method(self, *args, **kwargs)
        return value.detach() + 1.001 * (value - value.detach()) if value.requires_grad else value + 0.002

    return wrong


@pytest.mark.parametrize(
    ("name", "model", "method"),
    [
        ("vae/mlp/128", VAE, "loss"),
        ("gan/game/128", GAN, "discriminator_loss"),
        ("gan/game/128", GAN, "generator_loss"),
        ("gan/wgan-gp critic/128", GAN, "discriminator_loss"),
        ("ddpm/train/64", DDPM, "loss"),
        ("ddpm/sample/16", DDPM, "sample"),
    ],
)
def test_checks_notice_a_thousandth(name, model, method, monkeypatch, one_thread):
    torch.manual_seed(0)
    monkeypatch.setattr(model, method, a_little_wrong(getattr(model, method)))
    with pytest.raises(AssertionError):
        CASES[name].check()


def test_checks_notice_what_is_wrong_under_autocast_alone(monkeypatch, one_thread):
    plain = DDPM.loss

    def wrong(self, *args, **kwargs):
        return plain(self, *args, **kwargs) * (1.05 if torch.is_autocast_enabled("cpu") else 1.0)

    monkeypatch.setattr(DDPM, "loss", wrong)
    torch.manual_seed(0)
    with pytest.raises(AssertionError):
        CASES["ddpm/train/64"].check()


def test_steps_for_a_gpu_are_those_of_the_usual_code(one_thread):
    """Of the critic alone where the usual code has its step alone."""
    players = {}
    for name, work in gpu_steps.WORKS.items():
        if not name.startswith("DDPM"):
            torch.manual_seed(0)
            step = gpu_steps.updates(work.make(), work.batch(), precision="fp32", recorded=False, only=work.only)
            losses = step(0)
            assert all(math.isfinite(loss) for loss in losses)
            players[name.split(",")[0]] = len(losses)
    assert players == {"VAE": 1, "GAN": 2, "WGAN-GP": 1}


@pytest.mark.parametrize("name", CASES)
def test_work_is_that_of_the_network(name, one_thread):
    """2 FLOPs for each weight, image and pass, of which a step has three: one forward, two backward."""
    torch.manual_seed(0)
    flops = CASES[name].flops()
    if name.startswith("vae"):
        weights, first = 784 * 400 + 400 * 40 + 20 * 400 + 400 * 784, 784 * 400  # no gradient by the images
        assert flops == 2 * int(name.split("/")[-1]) * (3 * weights - first)
    assert flops > 1e8


class FakeWorker:
    def __init__(self, seconds, fails_at=None):
        self.taken, self.asked, self.fails_at = seconds, [], fails_at

    def ready(self):
        pass

    def seconds(self, steps):
        self.asked.append(steps)
        if len(self.asked) == self.fails_at:
            raise RuntimeError("no memory")
        return steps * self.taken


def test_workers_take_turns_and_a_failing_one_drops_out():
    workers = {"eager": FakeWorker(4e-4), "dgmkern": FakeWorker(1e-4), "peer": FakeWorker(1e-4, fails_at=4)}
    samples, errors = steps_run.take_turns(workers, PLAN, per_call=2)
    assert errors == {"peer": "RuntimeError: no memory"}
    assert samples["eager"].median == pytest.approx(2e-4)
    assert samples["dgmkern"].median == pytest.approx(5e-5)
    assert samples["dgmkern"].inner == 10
    assert workers["dgmkern"].asked == [1] + 7 * [10]  # calibrated twice; then of two, the first warms


def test_a_process_does_steps_and_says_why_it_cannot():
    worker = Worker("vae/mlp/128", "dgmkern", 1)
    try:
        worker.ready()
        assert 0 < worker.seconds(1) < worker.seconds(20)
    finally:
        worker.close()
    broken = Worker("vae/mlp/128", "no such variant", 1)
    try:
        with pytest.raises(RuntimeError, match="no such variant"):
            broken.ready()
    finally:
        broken.close()


def timed(monkeypatch, taken):
    monkeypatch.setattr(steps_run, "Worker", lambda case, variant, threads: Closing(taken[variant]))


class Closing(FakeWorker):
    def close(self):
        pass


def made(check=lambda: None):
    variants = {"eager": None, "dgmkern": None}
    targets = (Target("eager", at_least=3.0),)
    return StepCase("case", variants, check, flops=lambda: 2 * steps_run.SIZE**3, targets=targets)


def test_table_and_json_relate_to_baseline_limit_and_target(monkeypatch, capsys):
    timed(monkeypatch, {"eager": 4e-3, "dgmkern": 1e-3, "fp32": 5e-4, "bf16": 2e-4})
    passed, content = steps_run.run([made()], SETTING, PLAN)
    line = next(line for line in capsys.readouterr().out.splitlines() if "dgmkern" in line and "eager" in line)
    assert line.split("  ")[-1] in ("4.00x yes", "4.00x yes?")
    assert "2.00" in line
    assert passed
    variants = content["steps"][0]["variants"]
    assert variants["dgmkern"]["speedup"] == pytest.approx(4.0)
    assert content["steps"][0]["limit_seconds"] == pytest.approx(5e-4)


def test_a_wrong_step_is_not_timed(monkeypatch, capsys):
    timed(monkeypatch, {"fp32": 5e-4, "bf16": 2e-4})

    def wrong():
        raise AssertionError("gradient by weight: off")

    passed, content = steps_run.run([made(wrong)], SETTING, PLAN)
    assert not passed
    assert content["steps"][0]["variants"] == {}
    assert "gradient by weight: off" in capsys.readouterr().out


def test_the_command_names_the_cases_and_refuses_what_is_none(capsys):
    assert harness.main(["--steps", "--list", "vae"]) == harness.PASSED
    assert capsys.readouterr().out.split() == ["vae/mlp/128", "vae/mlp/1024"]
    assert harness.main(["--steps", "no-such-case"]) == harness.BAD_INPUT
    assert harness.main(["--steps", "--train"]) == harness.BAD_INPUT
