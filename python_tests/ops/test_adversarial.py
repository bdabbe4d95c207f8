"""What is particular to the adversarial ops: stable losses, exact weights, the WGAN-GP step against eager code."""

import mpmath
import numpy as np
import pytest
import torch
from instruction_sets import EACH_LEVEL, run_on
from raw_ops import LAYOUTS, opcheck_in_layout
from torch.nn import functional as F

import dgmkern
from dgmkern.reference.adversarial import KINDS
from dgmkern.reference.noise import uniform

OPS = torch.ops.dgmkern
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SEED = torch.tensor([7])


def exact_losses(real: list[float], fake: list[float], kind: str) -> tuple[mpmath.mpf, mpmath.mpf]:
    """To 40 digits, by the definitions: D = sigmoid of the score, for the kinds that have one."""
    mpmath.mp.dps = 40
    real, fake = [mpmath.mpf(x) for x in real], [mpmath.mpf(x) for x in fake]

    def mean(function, x):
        return mpmath.fsum(function(v) for v in x) / len(x)

    def log_d(x):
        return -mpmath.log1p(mpmath.exp(-x))

    def log_not_d(x):
        return -mpmath.log1p(mpmath.exp(x))

    if kind in ("minmax", "nonsaturating"):
        d = -mean(log_d, real) - mean(log_not_d, fake)
        return d, mean(log_not_d, fake) if kind == "minmax" else -mean(log_d, fake)
    if kind == "least_squares":
        half = mpmath.mpf(1) / 2
        d = mean(lambda x: half * (x - 1) ** 2, real) + mean(lambda x: half * x**2, fake)
        return d, mean(lambda x: half * (x - 1) ** 2, fake)
    if kind == "wasserstein":
        return mean(lambda x: x, fake) - mean(lambda x: x, real), -mean(lambda x: x, fake)
    d = mean(lambda x: max(0, 1 - x), real) + mean(lambda x: max(0, 1 + x), fake)
    return d, -mean(lambda x: x, fake)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", [0.0, 12.0, 60.0, -60.0])
def test_losses_are_their_definition_also_for_a_sure_discriminator(kind, shift):
    real = torch.linspace(-2, 2, 9) + shift
    fake = torch.linspace(-1, 3, 7) - shift
    d, g = dgmkern.gan_loss(real, fake, kind)
    exact_d, exact_g = exact_losses(real.tolist(), fake.tolist(), kind)
    assert abs(d.item() - exact_d) <= 1e-6 * abs(exact_d) + 1e-37
    assert abs(g.item() - exact_g) <= 1e-6 * abs(exact_g) + 1e-37


def test_the_first_two_kinds_are_binary_cross_entropy():
    real, fake = torch.randn(2, 500, dtype=torch.float64)
    one, zero = torch.ones(500, dtype=torch.float64), torch.zeros(500, dtype=torch.float64)
    bce = F.binary_cross_entropy_with_logits
    d, saturating = dgmkern.gan_loss(real, fake, "minmax")
    torch.testing.assert_close(d, bce(real, one) + bce(fake, zero))
    torch.testing.assert_close(saturating, -bce(fake, zero))
    torch.testing.assert_close(dgmkern.gan_loss(real, fake, "nonsaturating"), (d, bce(fake, one)))


@pytest.mark.parametrize("kind", KINDS)
def test_real_and_fake_may_have_any_shapes_and_layouts(kind):
    real = torch.randn(3, 1, 7, 5, requires_grad=True)
    fake = torch.randn(5, 4, 3, 2, requires_grad=True)
    laid = fake.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    flat = [x.detach().flatten().clone().requires_grad_() for x in (real, fake)]
    strange = real.detach().permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0).requires_grad_()
    weights = torch.tensor([0.3, 0.9])
    for a, b in ((real, fake), (strange, laid)):
        losses = dgmkern.gan_loss(a, b, kind)
        grads = torch.autograd.grad(losses, (a, b), tuple(weights))
        wanted = dgmkern.gan_loss(*flat, kind)
        torch.testing.assert_close(losses, wanted)
        for got, want in zip(grads, torch.autograd.grad(wanted, flat, tuple(weights)), strict=True):
            assert torch.equal(got.flatten(), want)
    assert grads[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
def test_the_generators_loss_alone_is_the_second_of_both(kind, dtype):
    real, fake = torch.randn(2, 9000).to(dtype)
    both, alone = fake.clone().requires_grad_(), fake.clone().requires_grad_()
    g, g_alone = dgmkern.gan_loss(real, both, kind)[1], dgmkern.gan_generator_loss(alone, kind)
    assert torch.equal(g, g_alone)
    g.backward()
    g_alone.backward()
    assert torch.equal(both.grad, alone.grad)


def test_the_hinge_has_slope_0_at_its_kinks_as_torch_has():
    real = torch.tensor([1.0, 1.0 + 2e-7, 1.0 - 1e-7, float("nan")], requires_grad=True)
    fake = torch.tensor([-1.0, -1.0 - 2e-7, -1.0 + 1e-7, float("nan")], requires_grad=True)
    eager = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    got = torch.autograd.grad(dgmkern.gan_loss(real, fake, "hinge")[0], (real, fake))
    torch.testing.assert_close(got, torch.autograd.grad(eager, (real, fake)), equal_nan=True)
    assert got[0].tolist() == [0.0, 0.0, -0.25, -0.25]


@pytest.mark.parametrize("player", [0, 1])
def test_a_loss_that_is_not_used_plays_no_part_in_the_gradient(player):
    """0 times an infinite slope of the other player's loss would be NaN."""
    real, fake = torch.zeros(2), torch.tensor([float("inf"), 0.0], requires_grad=True)
    (grad,) = torch.autograd.grad(dgmkern.gan_loss(real, fake, "least_squares")[player], fake)
    assert grad.tolist() == [float("inf"), 0.0 if player == 0 else -0.5]


@pytest.mark.parametrize("kind", KINDS)
def test_infinite_scores_follow_the_formula(kind):
    for value in (float("inf"), float("-inf"), float("nan")):
        x = torch.tensor([value, 0.5])
        with np.errstate(all="ignore"):
            for real, fake in ((x, torch.zeros(2)), (torch.zeros(2), x)):
                wide = [t.double() for t in (real, fake)]
                expected = OPS.gan_loss(*wide, kind)
                for got, want in zip(dgmkern.gan_loss(real, fake, kind), expected, strict=True):
                    torch.testing.assert_close(got, want.float(), equal_nan=True)
    saturated = torch.tensor([1e4, -1e4], requires_grad=True)
    d, _ = dgmkern.gan_loss(saturated, saturated, kind)
    (grad,) = torch.autograd.grad(d, saturated)
    assert grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_mean_over_no_scores_is_nan(kind):
    none = torch.empty(0, 1, requires_grad=True)
    d, g = dgmkern.gan_loss(torch.zeros(3), none, kind)
    assert d.isnan()
    assert g.isnan()
    assert torch.autograd.grad(d + g, none)[0].shape == (0, 1)
    assert dgmkern.gan_loss(none, torch.zeros(3), kind)[1].isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_do_not_depend_on_the_thread_count(kind):
    real, fake = torch.randn(100_003), torch.randn(70_001)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(dgmkern.gan_loss(real, fake, kind))
    assert results[0] == results[1]


@EACH_LEVEL
def test_losses_gradients_and_weights_on_every_instruction_set(level):
    """Losses within 1e-6, slopes within 2 ulp and the very same weights."""
    code = """
import torch, dgmkern
from dgmkern.reference.noise import uniform
x = torch.linspace(-70, 70, 2**14)  # no subnormal gradients
one, zero = torch.tensor(1.0), torch.tensor(0.0)
d_real, d_fake = torch.ops.dgmkern.gan_loss_backward(one, zero, x, x, "minmax")
worst = 0.0
for got, exact in ((-d_real, torch.sigmoid(-x.double())), (d_fake, torch.sigmoid(x.double()))):
    worst = max(worst, ((got.double() * len(x) - exact).abs() / exact).max().item() * 2**23)
loss = max(
    abs(dgmkern.gan_generator_loss(t, "nonsaturating").item() / torch.nn.functional.softplus(-t.double()).item() - 1)
    for t in torch.linspace(-80, 15, 301)
)
n = 5003
weights = dgmkern.interpolate(torch.ones(n, 3), torch.zeros(n, 3), seed=11, offset=2**34 - 9)
same = torch.equal(weights[:, 1], uniform(n, torch.tensor([11]), 2**34 - 9))
print(worst, loss, same)
"""
    ulp, loss_error, same = run_on(level, code).split()
    assert float(ulp) < 2.5
    assert float(loss_error) < 1e-6
    assert same == "True"


def test_weights_are_the_words_of_philox():
    # Random123's known answer for counter 0, key 0: 6627e8d5 e169c58d bc57ac4c 9b00dbd8
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    got = dgmkern.interpolate(torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64), seed=0)
    assert got.tolist() == [((w >> 9) + 0.5) / 2**23 for w in words]


def test_weights_are_uniform_exact_and_never_0_or_1():
    u = uniform(200_000, torch.tensor([3]), 1).double()
    assert 0 < u.min() < u.max() < 1
    assert torch.equal((1 - u).float().double(), 1 - u)
    n = len(u)
    distance = (u.sort().values - (torch.arange(n) + 0.5) / n).abs().max().item()
    assert distance * n**0.5 < 2.7  # Kolmogorov-Smirnov: 1e-6
    assert abs((u[1:] - 0.5) @ (u[:-1] - 0.5)) / n * 12 < 6 / n**0.5


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
def test_the_same_weights_for_any_dtype_layout_threads_and_rank(dtype):
    x, y = torch.randn(2, 37, 3, 6, 5).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = dgmkern.interpolate(x, y, alpha=uniform(37, SEED, 5).to(wide))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert torch.equal(dgmkern.interpolate(x, y, seed=7, offset=5), expected)
    last = dgmkern.interpolate(x.contiguous(memory_format=torch.channels_last), y, seed=SEED, offset=5)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, expected)
    parts = [dgmkern.interpolate(x[n : n + 10], y[n : n + 10], seed=7, offset=5 + n) for n in range(0, 37, 10)]
    assert torch.equal(torch.cat(parts), expected)
    a = uniform(37, SEED, 5).reshape(-1, 1, 1, 1).double()
    torch.testing.assert_close(expected.double(), a * x.double() + (1 - a) * y.double(), rtol=1e-2, atol=1e-2)


def test_weights_follow_torchs_generator():
    x, y = torch.randn(2, 5, 4)
    torch.manual_seed(4)
    a = dgmkern.interpolate(x, y)
    torch.manual_seed(4)
    assert torch.equal(dgmkern.interpolate(x, y), a)
    assert not torch.equal(dgmkern.interpolate(x, y), a)
    generators = [torch.Generator().manual_seed(9) for _ in range(2)]
    assert torch.equal(*[dgmkern.interpolate(x, y, generator=g) for g in generators])


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
def test_interpolates_are_exact_at_both_ends(dtype):
    x, y = torch.randn(2, 4, 600).to(dtype)
    got = dgmkern.interpolate(x, y, alpha=torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert torch.equal(got[1::2], x[1::2])
    assert torch.equal(got[::2], y[::2])


@pytest.mark.parametrize("shape", [(5, 3, 4, 2), (3, 20000), (700, 2), (0, 3), (3, 0), (6,)])
def test_gradients_of_drawn_interpolates(shape):
    x, y = (t.requires_grad_() for t in torch.randn(2, *shape, dtype=torch.float64).unbind())
    grad = torch.randn(shape, dtype=torch.float64)
    a = uniform(shape[0], SEED, 3).double().reshape(-1, *[1] * (len(shape) - 1))
    dx, dy = torch.autograd.grad(dgmkern.interpolate(x, y, seed=SEED, offset=3), (x, y), grad)
    assert torch.equal(dx, a * grad)
    assert torch.equal(dy, (1 - a) * grad)


def test_drawn_interpolates_pass_gradgradcheck_and_leave_what_needs_no_gradient():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: dgmkern.interpolate(x, y, seed=1) ** 2, (x,))
    assert torch.autograd.gradgradcheck(lambda x: dgmkern.interpolate(x, y, seed=1) ** 2, (x,))
    dgmkern.interpolate(x, y, seed=1).sum().backward()
    assert y.grad is None


def eager_penalty(grad: torch.Tensor, target: float, one_sided: bool) -> torch.Tensor:
    excess = torch.linalg.vector_norm(grad.flatten(1), dim=1) - target
    return (F.relu(excess) if one_sided else excess) ** 2


# few large samples; many large; many small; samples that are no multiple of a part
@pytest.mark.parametrize("shape", [(2, 3, 100, 100), (70, 9001), (3000, 7), (40, 8192)])
@pytest.mark.parametrize(("target", "one_sided"), [(1.0, False), (0.0, False), (30.0, True)])
def test_penalty_and_its_gradient_are_eagers_on_every_path(shape, target, one_sided):
    grad = torch.randn(shape, dtype=torch.float64) * torch.rand(shape[0], *[1] * (len(shape) - 1))
    up = torch.randn(shape[0], dtype=torch.float64)
    eager, ours, single = (t.requires_grad_() for t in (grad.clone(), grad.clone(), grad.float()))
    eager_out = eager_penalty(eager, target, one_sided)
    (eager_grad,) = torch.autograd.grad(eager_out, eager, up)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        out = dgmkern.gradient_norm_penalty(ours, target=target, one_sided=one_sided)
        torch.testing.assert_close(out, eager_out, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(out, ours, up)[0], eager_grad, rtol=1e-11, atol=1e-12)
        out = dgmkern.gradient_norm_penalty(single, target=target, one_sided=one_sided)
        results = (out.detach(), *torch.autograd.grad(out, single, up.float()))
        torch.testing.assert_close(results[0].double(), eager_out, rtol=2e-5, atol=1e-6)
        torch.testing.assert_close(results[1].double(), eager_grad, rtol=1e-4, atol=1e-6)
        if threads == 1:
            first = results
    assert all(map(torch.equal, first, results))


@pytest.mark.parametrize("one_sided", [False, True])
def test_where_the_gradient_is_0_so_is_the_penaltys(one_sided):
    grad = torch.randn(3, 5, dtype=torch.float64)
    grad[1] = 0
    grad.requires_grad_()
    penalty = dgmkern.gradient_norm_penalty(grad, one_sided=one_sided)
    assert penalty[1] == (0 if one_sided else 1)
    (first,) = torch.autograd.grad(penalty.sum(), grad, create_graph=True)
    assert (first[1] == 0).all()
    (second,) = torch.autograd.grad(first.pow(2).sum(), grad)
    assert second.isfinite().all()


def test_target_0_is_the_squared_norm_with_all_its_derivatives():
    grad = torch.randn(3, 5, dtype=torch.float64)
    grad[1] = 0
    grad.requires_grad_()
    penalty = dgmkern.gradient_norm_penalty(grad, target=0)
    torch.testing.assert_close(penalty, grad.pow(2).sum(1))
    (first,) = torch.autograd.grad(penalty.sum(), grad, create_graph=True)
    torch.testing.assert_close(first, 2 * grad)
    (second,) = torch.autograd.grad(first.sum(), grad)
    torch.testing.assert_close(second, torch.full_like(grad, 2))


def test_norms_of_huge_and_tiny_fp32_gradients_neither_overflow_nor_vanish():
    grad = torch.full((2, 4), 1e15)
    grad[0] *= 1e3
    torch.testing.assert_close(dgmkern.gradient_norm_penalty(grad), torch.tensor([4e36, 4e30]))
    tiny = torch.full((1, 4), 1e-30, requires_grad=True)
    (slope,) = torch.autograd.grad(dgmkern.gradient_norm_penalty(tiny).sum(), tiny)
    torch.testing.assert_close(slope, torch.full((1, 4), -1.0))  # 2 (norm - 1) grad / norm


def mlp(activation: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(3)
    layers = [torch.nn.Linear(784, 256), activation, torch.nn.Linear(256, 256), activation, torch.nn.Linear(256, 1)]
    return torch.nn.Sequential(*layers).double()


@pytest.mark.parametrize(
    "activation", [torch.nn.LeakyReLU(0.2), torch.nn.SiLU(), torch.nn.Tanh()], ids=lambda a: str(a)
)
@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("one_sided", [False, True])
def test_a_wgan_gp_step_has_eagers_parameter_gradients(activation, drawn, one_sided):
    critic = mlp(activation)
    real, fake = torch.rand(2, 64, 784, dtype=torch.float64)
    alpha = uniform(64, SEED, 40).double()
    target = 0.01 if one_sided else 1.0  # a fresh critic's gradients are small

    eps = alpha.reshape(-1, 1)
    x = (eps * real + (1 - eps) * fake).requires_grad_()
    scores = critic(x)
    (grad,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=True)
    eager = critic(fake).mean() - critic(real).mean() + 10 * eager_penalty(grad, target, one_sided).mean()
    expected = torch.autograd.grad(eager, critic.parameters(), materialize_grads=True)

    how = {"seed": 7, "offset": 40} if drawn else {"alpha": alpha}
    penalty = dgmkern.gradient_penalty(critic, real, fake, target=target, one_sided=one_sided, **how)
    assert penalty.shape == (64,)
    assert penalty.max() > 0
    critic_loss, _ = dgmkern.gan_loss(critic(real), critic(fake), "wasserstein")
    loss = critic_loss + 10 * penalty.mean()
    torch.testing.assert_close(loss, eager, rtol=1e-12, atol=0)
    got = torch.autograd.grad(loss, critic.parameters(), materialize_grads=True)
    for a, b in zip(got, expected, strict=True):
        assert (a - b).abs().max() <= 1e-10 * b.abs().max()


def test_gradient_penalty_reaches_a_generator_whose_samples_ask_for_it():
    critic = mlp(torch.nn.SiLU())
    real = torch.rand(8, 784, dtype=torch.float64)
    shift = torch.zeros(784, dtype=torch.float64, requires_grad=True)
    alpha = torch.linspace(0.2, 0.7, 8, dtype=torch.float64)
    fake = real.flip(0) + shift
    (got,) = torch.autograd.grad(dgmkern.gradient_penalty(critic, real, fake, alpha=alpha).sum(), shift)
    x = alpha[:, None] * real + (1 - alpha[:, None]) * (real.flip(0) + shift)
    (grad,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(eager_penalty(grad, 1.0, False).sum(), shift)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)


def test_gradient_penalty_of_a_convolutional_critic_without_a_graph():
    critic = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.LeakyReLU(0.2), torch.nn.Conv2d(8, 1, 3))
    real, fake = torch.rand(2, 5, 3, 16, 16)
    real = real.contiguous(memory_format=torch.channels_last)
    recorded = dgmkern.gradient_penalty(critic, real, fake, seed=1)
    assert recorded.requires_grad
    with torch.no_grad():
        plain = dgmkern.gradient_penalty(critic, real, fake, seed=1)
    assert not plain.requires_grad
    torch.testing.assert_close(plain, recorded.detach())
    assert real.grad is None
    assert not real.requires_grad


def test_gradient_penalty_of_a_linear_critic_is_known():
    weight = torch.randn(10, dtype=torch.float64)
    real, fake = torch.randn(2, 6, 10, dtype=torch.float64)
    penalty = dgmkern.gradient_penalty(lambda x: x @ weight, real, fake, target=2.0)
    torch.testing.assert_close(penalty, (weight.norm() - 2).square().expand(6))


def test_a_compiled_step_with_penalty_is_the_eager_step():
    critic = mlp(torch.nn.SiLU()).float()
    real, fake = torch.rand(2, 8, 784)

    def step(real, fake):
        return dgmkern.gradient_penalty(critic, real, fake, seed=3).mean()

    torch._dynamo.reset()
    expected = torch.autograd.grad(step(real, fake), critic.parameters(), materialize_grads=True)
    got = torch.autograd.grad(torch.compile(step)(real, fake), critic.parameters(), materialize_grads=True)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def scalar_like(x: torch.Tensor) -> torch.Tensor:
    return x.sum().detach().clone().requires_grad_()


def per_sample_like(x: torch.Tensor) -> torch.Tensor:
    return x[:, 0, 0, 0].detach().clone().requires_grad_()


RAW = [
    (OPS.gan_loss, lambda x: (x(), x(), "hinge")),
    (OPS.gan_loss_backward, lambda x: (scalar_like(x()), scalar_like(x()), x(), x(), "minmax")),
    (OPS.gan_generator_loss, lambda x: (x(), "nonsaturating")),
    (OPS.gan_generator_loss_backward, lambda x: (scalar_like(x()), x(), "least_squares")),
    (OPS.interpolate, lambda x: (x(), x(), None, SEED, 3)),
    (OPS.interpolate, lambda x: (x(), x(), per_sample_like(x()), None, 0)),
    (OPS.interpolate_backward, lambda x: (x(), x(), x(), None, SEED, 3)),
    (OPS.interpolate_backward, lambda x: (x(), x(), x(), per_sample_like(x()), None, 0)),
    (OPS.gradient_norm_penalty, lambda x: (x(), 1.0, False)),
    (OPS.gradient_norm_penalty_backward, lambda x: (per_sample_like(x()), x(), 1.0, True)),
]


@pytest.mark.parametrize(("op", "make"), RAW, ids=lambda v: getattr(v, "__name__", ""))
@LAYOUTS
def test_opcheck(op, make, layout):
    opcheck_in_layout(op, make, (2, 3, 4, 5), layout)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: OPS.gan_loss(x, x.double(), "hinge"), "logits_real"),
        (lambda x: OPS.gan_loss(x, x, "gan"), "kind"),
        (lambda x: OPS.gan_loss(x.int(), x.int(), "hinge"), "dtype"),
        (lambda x: OPS.gan_loss_backward(x, x[0, 0], x, x, "hinge"), "grad_d"),
        (lambda x: OPS.gan_loss_backward(x[0, 0], x[0, 0].double(), x, x, "hinge"), "grad_g"),
        (lambda x: OPS.gan_generator_loss_backward(x[0], x, "hinge"), "grad"),
        (lambda x: OPS.interpolate(x, x[:, :2], None, SEED, 0), "y"),
        (lambda x: OPS.interpolate(x, x, x[:, 0][:2], None, 0), "alpha"),
        (lambda x: OPS.interpolate(x, x, x[:, 0].double(), None, 0), "alpha"),
        (lambda x: OPS.interpolate(x, x, None, None, 0), "seed"),
        (lambda x: OPS.interpolate(x, x, None, SEED, -1), "offset"),
        (lambda x: OPS.interpolate(x[0, 0], x[0, 0], None, SEED, 0), "x"),
        (lambda x: OPS.interpolate_backward(x[:2], x, x, None, SEED, 0), "grad"),
        (lambda x: OPS.gradient_norm_penalty(x[0, 0], 1.0, False), "grad"),
        (lambda x: OPS.gradient_norm_penalty_backward(x[:2, 0], x, 1.0, False), "grad_penalty"),
    ],
)
def test_raw_ops_refuse_what_does_not_fit(call, message):
    """What a wrapper would have caught must not read out of bounds."""
    if dgmkern.cpu_capability() is None:
        pytest.skip("native kernels only")
    with pytest.raises(ValueError, match=message):
        call(torch.randn(3, 4))


X = torch.randn(3, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dgmkern.gan_loss(X, X, "lsgan"), ValueError, "kind.*minmax.*lsgan"),
        (lambda: dgmkern.gan_loss(X, X, None), ValueError, "kind"),
        (lambda: dgmkern.gan_loss(None, X, "hinge"), TypeError, "logits_real.*NoneType"),
        (lambda: dgmkern.gan_loss(X, X.double(), "hinge"), TypeError, "logits_fake.*float32.*float64"),
        (lambda: dgmkern.gan_loss(X, X.int(), "hinge"), TypeError, "logits_fake"),
        (lambda: dgmkern.gan_loss(X, X.to("meta"), "hinge"), ValueError, "logits_fake.*meta"),
        (lambda: dgmkern.gan_generator_loss(X, "w"), ValueError, "kind"),
        (lambda: dgmkern.gan_generator_loss(X.int(), "hinge"), TypeError, "logits_fake"),
        (lambda: dgmkern.interpolate(X, X.double()), TypeError, "y.*float32.*float64"),
        (lambda: dgmkern.interpolate(X, X[:2]), ValueError, r"y.*\(3, 4\).*\(2, 4\)"),
        (lambda: dgmkern.interpolate(X[0, 0], X[0, 0]), ValueError, "x"),
        (lambda: dgmkern.interpolate(X, X, alpha=X), ValueError, r"alpha.*\(3,\).*\(3, 4\)"),
        (lambda: dgmkern.interpolate(X, X, alpha=0.5), TypeError, "alpha"),
        (lambda: dgmkern.interpolate(X, X, alpha=X[:, 0], seed=1), ValueError, "alpha"),
        (lambda: dgmkern.interpolate(X, X, alpha=X[:, 0], generator=torch.Generator()), ValueError, "alpha"),
        (lambda: dgmkern.interpolate(X, X, seed=1, generator=torch.Generator()), ValueError, "seed"),
        (lambda: dgmkern.interpolate(X, X, seed=1.0), TypeError, "seed"),
        (lambda: dgmkern.interpolate(X, X, seed=1, offset=-1), ValueError, "offset"),
        (lambda: dgmkern.gradient_norm_penalty(X, target=-1.0), ValueError, "target"),
        (lambda: dgmkern.gradient_norm_penalty(X, target=float("nan")), ValueError, "target"),
        (lambda: dgmkern.gradient_norm_penalty(X, target="1"), TypeError, "target"),
        (lambda: dgmkern.gradient_norm_penalty(X[0, 0]), ValueError, "grad"),
        (lambda: dgmkern.gradient_penalty(None, X, X), TypeError, "critic"),
        (lambda: dgmkern.gradient_penalty(torch.sum, X, X[:2]), ValueError, "fake"),
        (lambda: dgmkern.gradient_penalty(torch.sum, X, X, target=-1.0), ValueError, "target"),
        (lambda: dgmkern.gradient_penalty(lambda x: 1.0, X, X), TypeError, "critic"),
        (lambda: dgmkern.gradient_penalty(lambda x: X.sum(), X, X), ValueError, "critic"),
        (lambda: dgmkern.gradient_penalty(lambda x: X.clone().requires_grad_(), X, X), ValueError, "critic"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        call()
    if "critic" not in message:
        assert torch.equal(state, torch.get_rng_state())
