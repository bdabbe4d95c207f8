"""The cases of every op family: right kernels pass their checks, kernels that are a little wrong do not."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import dgmkern
from perf import checks, train
from perf.case import Setting, families
from perf.checks import CHECK_SEED, assert_close_to_fp64, assert_standard_normal
from perf.measure import check

SETTING = Setting(device="cpu", threads=1, capability="avx512")
FAMILIES = families()
NOISE, DIFFUSION, GAUSSIAN, IMPORTANCE = (FAMILIES[name] for name in ("noise", "diffusion", "gaussian", "importance"))
ADVERSARIAL = FAMILIES["adversarial"]
SMALL_CASES = {
    "normal": NOISE.normal_case("normal", (3, 1001), torch.float32, SETTING, scaling=True),
    "normal bf16": NOISE.normal_case("normal", (3, 1001), torch.bfloat16, SETTING, scaling=False),
    "drawn": DIFFUSION.drawn_case("drawn", (5, 3, 7, 9), torch.float32, SETTING),
    "drawn bf16": DIFFUSION.drawn_case("drawn", (5, 3, 7, 9), torch.bfloat16, SETTING),
    "given": DIFFUSION.given_case("given", (5, 3, 7, 9), torch.float32, SETTING),
    "given bf16": DIFFUSION.given_case("given", (5, 3, 7, 9), torch.bfloat16, SETTING),
    "target": DIFFUSION.target_case("target", (5, 3, 7, 9), torch.float32, SETTING),
    "forward": GAUSSIAN.rsample_kl_case("forward", (33, 20), SETTING, backward=False),
    "backward": GAUSSIAN.rsample_kl_case("backward", (33, 20), SETTING, backward=True),
    "kl between": GAUSSIAN.kl_between_case("kl between", (33, 20), SETTING),
    "log ratio": IMPORTANCE.log_ratio_case("log ratio", (33, 4, 20), SETTING, backward=False),
    "log ratio backward": IMPORTANCE.log_ratio_case("log ratio backward", (33, 4, 20), SETTING, backward=True),
    "discriminator": ADVERSARIAL.gan_case("discriminator", 64, SETTING, generator=False),
    "generator": ADVERSARIAL.gan_case("generator", 64, SETTING, generator=True),
    "interpolate": ADVERSARIAL.interpolate_case("interpolate", (5, 3, 7, 9), SETTING),
    "norm penalty": ADVERSARIAL.norm_penalty_case("norm penalty", (5, 3, 7, 9), SETTING),
    "critic step": ADVERSARIAL.critic_step_case("critic step", 8, SETTING),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensors_of(output):
    """The tensors in a nest of tuples."""
    return [output] if isinstance(output, torch.Tensor) else [x for part in output for x in tensors_of(part)]


def check_with(case, change):
    """The check of the case's `dgmkern` variant with `change(output)` applied to what it returns."""
    inputs = case.setup()
    ours = case.variants["dgmkern"]

    def changed(inputs):
        output = ours.run(inputs)
        change(tensors_of(output))
        return output

    variants = dict(case.variants) | {"dgmkern": replace(ours, run=changed)}
    return check(replace(case, variants=variants), inputs, 60.0)


@pytest.mark.parametrize("name", SMALL_CASES)
def test_the_kernels_pass_their_checks(name):
    assert check_with(SMALL_CASES[name], lambda tensors: None) == (None, {})


@pytest.mark.parametrize("name", SMALL_CASES)
def test_each_output_is_checked_down_to_a_single_wrong_element(name):
    case = SMALL_CASES[name]
    torch.manual_seed(0)
    count = len(tensors_of(case.variants["dgmkern"].run(case.setup())))
    for which in range(count):

        def nudge(tensors, which=which):
            with torch.no_grad():
                flat = tensors[which].view(-1)
                last = flat[-2:][0]  # of several the last but one
                last += 64 * torch.finfo(flat.dtype).eps * max(1.0, last.abs().item())

        wrong, _ = check_with(case, nudge)
        assert wrong is not None, f"output {which} of {count} goes unchecked"


@pytest.mark.parametrize(
    "name", ["drawn", "target", "forward", "backward", "log ratio", "log ratio backward", "interpolate"]
)
def test_noise_of_another_seed_fails_the_check(name):
    case = SMALL_CASES[name]
    ours = case.variants["dgmkern"]

    def other_seed(inputs):
        torch.manual_seed(CHECK_SEED + 1)
        return ours.run(inputs)

    variants = dict(case.variants) | {"dgmkern": replace(ours, run=other_seed)}
    wrong, _ = check(replace(case, variants=variants), case.setup(), 60.0)
    assert wrong is not None


@pytest.mark.parametrize("name", [name for name in SMALL_CASES if "normal" not in name and "bf16" not in name])
def test_eager_code_does_the_same_work(name):
    """Same shapes and dtypes, and for given noise the same numbers."""
    case = SMALL_CASES[name]
    inputs = case.setup()
    eager, ours = (tensors_of(case.variants[which].run(inputs)) for which in ("eager", "dgmkern"))
    assert [(x.shape, x.dtype) for x in eager] == [(x.shape, x.dtype) for x in ours]
    if name == "given":
        case.variants["dgmkern"].check(inputs, eager[0])


@pytest.mark.parametrize("name", ["drawn", "target", "forward", "backward"])
def test_bytes_that_must_move_are_inputs_and_outputs_once(name):
    case = SMALL_CASES[name]
    inputs = case.setup()
    outputs = sum(x.numel() * x.itemsize for x in tensors_of(case.variants["dgmkern"].run(inputs)))
    read = {
        "drawn": [inputs.x0] if name in ("drawn", "target") else [],
        "forward": [] if name in ("drawn", "target") else [inputs.mu, inputs.logvar],
        # the backward pass reads its inputs again, with the upstream gradients
        "backward": [inputs.mu, inputs.logvar, inputs.grad_z, inputs.grad_kl] if name == "backward" else [],
    }
    moved = sum(x.numel() * x.itemsize for tensors in read.values() for x in tensors)
    assert case.bytes_moved == outputs + moved


def test_every_family_offers_cases_with_unique_names_and_sweeps_that_build():
    names = []
    for module in FAMILIES.values():
        names += [case.name for case in module.cases(SETTING)]
        for name, make in module.sweeps(SETTING).items():
            for elements in (1_000, 100_000):
                assert make(elements).elements == elements, name
    assert len(names) == len(set(names))


def test_the_targets_of_the_issue_are_in_the_cases():
    stated = {
        (case.name, str(t)) for module in FAMILIES.values() for case in module.cases(SETTING) for t in case.targets
    }
    assert stated >= {
        ("q_sample/drawn/256x3x64x64/fp32", ">= 6x eager"),
        ("q_sample/drawn/256x3x64x64/fp32", "<= 1.15x the time of dgmkern.normal"),
        ("q_sample/given/256x3x64x64/fp32", ">= 3x eager"),
        ("q_sample/given/256x3x64x64/fp32", "<= 1.3x the time of torch.add(out=)"),
        ("gaussian_rsample_kl/backward/4096x256/fp32", ">= 5x eager"),
        ("gaussian_rsample_kl/backward/128x20/fp32", "<= 0.6x the time of eager"),
        ("normal/256x3x64x64/fp32", ">= 2.4x torch.randn, 1 thread"),
        ("gan_loss/discriminator/backward/64/fp32", "<= 1x the time of eager"),
        ("gan_loss/generator/backward/64/fp32", "<= 1x the time of eager"),
    }


def test_standard_normals_pass_and_near_misses_fail():
    torch.manual_seed(0)
    good = torch.randn(1 << 18)
    assert_standard_normal(good)
    for wrong in (
        good * 1.01,
        good + 0.02,
        torch.rand(1 << 18) * 3.4641 - 1.7320,  # same mean and variance
        good.view(-1, 2)[:, :1].expand(-1, 2).reshape(-1),  # every number twice
        good.where(torch.arange(1 << 18) != 77, torch.tensor(float("nan"))),
        good.where(torch.arange(1 << 18) % 64 > 0, torch.tensor(0.0)),
    ):
        with pytest.raises(AssertionError):
            assert_standard_normal(wrong)


def test_the_fp64_comparison_measures_in_units_of_the_dtype():
    want = torch.tensor([1.0, -3.0, 1e-6], dtype=torch.float64)
    for dtype in (torch.float32, torch.bfloat16):
        eps = torch.finfo(dtype).eps
        got = want.to(dtype)
        assert_close_to_fp64(got, want, what="x", scale=1e-6)
        off = got.clone()
        off[1] *= 1 + 8 * eps
        with pytest.raises(AssertionError, match="element 1"):
            assert_close_to_fp64(off, want, what="x", scale=1e-6)


def test_chunks_cover_the_batch_once_in_order():
    for samples, each in ((1, 10), (7, 3), (1000, 1 << 21), (5, 1 << 30)):
        parts = [list(range(samples))[part] for part in checks.chunks(samples, each)]
        assert [i for part in parts for i in part] == list(range(samples))


def test_fused_and_eager_training_compute_the_same_loss():
    fused, eager = train.make_trainer(fused=True), train.make_trainer(fused=False)
    train.check_losses(fused, eager)
    assert all(torch.equal(a, b) for a, b in zip(fused.model.parameters(), eager.model.parameters(), strict=True)), (
        "both start from the same weights"
    )
    assert eager.train_step()["loss"] == pytest.approx(fused.train_step()["loss"], rel=0.1)


def test_training_with_a_wrong_loss_is_refused():
    fused, eager = train.make_trainer(fused=True), train.make_trainer(fused=False)
    wrong = dgmkern.DiffusionSchedule.linear(eager.model.schedule.steps)
    tables = wrong.sqrt_alphas_cumprod.float(), wrong.sqrt_one_minus_alphas_cumprod.float()
    eager.model.loss = train.partial(train.eager_loss, eager.model, *tables)
    with pytest.raises(AssertionError):
        train.check_losses(fused, eager)


def test_the_seed_of_a_checked_call_can_be_drawn_again():
    torch.manual_seed(CHECK_SEED)
    seed = dgmkern.draw_seed()
    state = torch.get_rng_state()
    assert torch.equal(checks.replayed_seed("cpu"), seed)
    assert torch.equal(torch.get_rng_state(), state), "and the caller's generator is left alone"


def test_inputs_are_made_alike_for_speed_and_correctness():
    made = DIFFUSION.make_inputs((4, 2), torch.bfloat16, noise=True)
    assert isinstance(made, SimpleNamespace)
    assert made.sqrt_abar.dtype == made.x0.dtype == made.noise.dtype == torch.bfloat16
