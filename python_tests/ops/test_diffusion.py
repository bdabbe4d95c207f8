"""What is particular to diffusion noising: coefficients, steps, targets, ranks."""

import pytest
import torch
from raw_ops import LAYOUTS, opcheck_in_layout

import dgmkern

OPS = torch.ops.dgmkern
S = dgmkern.DiffusionSchedule.linear(1000)
SEED = torch.tensor([7])
X0 = torch.randn(4, 3, 5, 6)
T = torch.tensor([0, 1, 500, 999])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_still_noises_at_every_step(dtype):
    """Coefficients that pass through the sample's dtype lose the noise of the first steps (diffusers: 10 of 1000)."""
    t = torch.arange(1000)
    x_t = dgmkern.q_sample(torch.zeros(1000, 64, dtype=dtype), t, S, seed=1)
    expected = S.sqrt_one_minus_alphas_cumprod[:, None] * dgmkern.normal((1000, 64), 1).double()
    assert (x_t.double() - expected).abs().max() <= torch.finfo(dtype).eps * expected.abs().max()
    assert ((x_t.double() - expected).abs() / expected.abs().clamp_min(1e-3)).max() < torch.finfo(dtype).eps
    assert x_t.abs().amax(1).min() > 0


def test_variance_and_signal_are_the_schedules():
    n = 200_000
    for t in (0, 300, 999):
        x_t = dgmkern.q_sample(torch.full((1, n), 2.0), t, S, seed=t).double()
        assert abs(x_t.mean().item() - 2 * S.sqrt_alphas_cumprod[t].item()) < 5 * n**-0.5
        assert abs(x_t.var().item() / (1 - S.alphas_cumprod[t].item()) - 1) < 5 * (2 / n) ** 0.5


def test_targets_solve_back_to_x0_and_eps():
    a, b = S.sqrt_alphas_cumprod[T].view(-1, 1, 1, 1), S.sqrt_one_minus_alphas_cumprod[T].view(-1, 1, 1, 1)
    x0 = X0.double()
    x_t, eps = dgmkern.q_sample(x0, T, S, seed=SEED, target="eps")
    assert torch.equal(eps, dgmkern.normal(x0.shape, SEED, dtype=torch.float64))
    x_t2, v = dgmkern.q_sample(x0, T, S, seed=SEED, target="v")
    x_t3, same = dgmkern.q_sample(x0, T, S, seed=SEED, target="x0")
    assert torch.equal(x_t, x_t2)
    assert torch.equal(x_t, x_t3)
    assert same is x0
    torch.testing.assert_close(a * x_t - b * v, x0, rtol=1e-12, atol=1e-12)  # Salimans & Ho: x0 = a x_t - b v
    torch.testing.assert_close(b * x_t + a * v, eps, rtol=1e-12, atol=1e-12)


def test_an_int_step_is_that_step_for_all():
    assert torch.equal(dgmkern.q_sample(X0, 17, S, seed=SEED), dgmkern.q_sample(X0, torch.full((4,), 17), S, seed=SEED))


def test_ranks_that_split_a_batch_noise_as_one_process_does():
    whole = dgmkern.q_sample(X0, T, S, seed=SEED)
    for rank in range(4):
        part = dgmkern.q_sample(X0[rank : rank + 1], T[rank : rank + 1], S, seed=SEED, offset=rank * 90)
        assert torch.equal(part, whole[rank : rank + 1])


def test_steps_of_any_stride():
    strided = torch.stack([T, T + 1], 1)[:, 0]
    assert torch.equal(dgmkern.q_sample(X0, strided, S, seed=SEED), dgmkern.q_sample(X0, T, S, seed=SEED))


@pytest.mark.parametrize("bad", [-1, 1000, 2**40, -(2**63)])
def test_a_step_outside_the_schedule_is_an_index_error(bad):
    t = torch.tensor([0, bad, 2, 3])
    with pytest.raises(IndexError, match=rf"t: expected steps in \[0, 1000\), got {bad}"):
        dgmkern.q_sample(X0, t, S)
    with pytest.raises(IndexError, match=rf"\[0, 1000\), got {bad}"):
        dgmkern.q_sample(X0, bad, S)
    with pytest.raises(IndexError, match="t: expected"):
        torch.compile(lambda x, t: dgmkern.q_sample(x, t, S))(X0, t)
    with pytest.raises(IndexError, match="t: expected"):
        OPS.q_sample_backward(X0, t, S.q_table("cpu"), 0)


def test_q_posterior_is_bayes_rule():
    """q(x_{t-1} | x_t, x_0) from the product of two Gaussians, independent of the table's formulas."""
    x0 = X0.double()
    for t in (1, 2, 500, 999):
        x_t = dgmkern.q_sample(x0, t, S, seed=t)
        prior_mean, prior_var = S.sqrt_alphas_cumprod[t - 1] * x0, 1 - S.alphas_cumprod[t - 1]
        root, beta = S.alphas[t].sqrt(), S.betas[t]  # x_t = root x_{t-1} + sqrt(beta) eps
        variance = 1 / (1 / prior_var + root**2 / beta)
        expected = variance * (prior_mean / prior_var + root * x_t / beta)
        mean, logvar = dgmkern.q_posterior(x0, x_t, t, S)
        torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(logvar, variance.log().expand(4, 1, 1, 1), rtol=1e-9, atol=0)
    mean, _ = dgmkern.q_posterior(x0, x_t, 0, S)
    torch.testing.assert_close(mean, x0, rtol=1e-12, atol=0)
    assert dgmkern.q_posterior(X0.bfloat16(), X0.bfloat16(), T, S)[1].dtype == torch.float32


RAW = [
    (OPS.q_posterior, lambda x: (x(), x(), T, S.p_table("cpu"))),
    (OPS.q_posterior_backward, lambda x: (x(), x(), x(), T, S.p_table("cpu"))),
    (OPS.q_sample, lambda x: (x(), T, S.q_table("cpu"), None, SEED, 0)),
    (OPS.q_sample, lambda x: (x(), T, S.q_table("cpu"), x(), None, 0)),
    (OPS.q_sample_target, lambda x: (x(), T, S.q_table("cpu"), None, SEED, 0, "eps")),
    (OPS.q_sample_target, lambda x: (x(), T, S.q_table("cpu"), x(), None, 0, "v")),
    (OPS.q_sample_backward, lambda x: (x(), T, S.q_table("cpu"), 1)),
]


@pytest.mark.parametrize(("op", "make"), RAW, ids=lambda v: getattr(v, "__name__", ""))
@LAYOUTS
def test_opcheck(op, make, layout):
    opcheck_in_layout(op, make, (4, 3, 5, 6), layout)


TABLE = S.q_table("cpu")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dgmkern.q_sample(X0, T[:2], S), ValueError, r"t: expected shape \(4,\).*\(2,\)"),
        (lambda: dgmkern.q_sample(X0, T.view(4, 1), S), ValueError, "t: expected shape"),
        (lambda: dgmkern.q_sample(X0, T.float(), S), TypeError, "t: expected dtype int64"),
        (lambda: dgmkern.q_sample(X0, T.to("meta"), S), ValueError, "t: expected the device"),
        (lambda: dgmkern.q_sample(X0, 1.5, S), TypeError, "t: expected"),
        (lambda: dgmkern.q_sample(X0, True, S), TypeError, "t: expected"),
        (lambda: dgmkern.q_sample(X0, T, "linear"), TypeError, "s: expected"),
        (lambda: dgmkern.q_sample(X0, T, S, target="noise"), ValueError, "target: expected"),
        (lambda: dgmkern.q_sample(torch.tensor(1.0), 1, S), ValueError, "x0: expected"),
        (lambda: dgmkern.q_sample(X0.int(), T, S), TypeError, "x0: expected dtype"),
        (lambda: dgmkern.q_posterior(X0, X0[:2], T, S), ValueError, "x_t: expected"),
        (lambda: OPS.q_posterior(X0, X0, T, TABLE), ValueError, "table: expected"),
        (lambda: OPS.q_posterior_backward(X0, X0, X0[:2], T, S.p_table("cpu")), ValueError, "x_t: expected"),
        (lambda: OPS.q_sample(X0, T[:2], TABLE, None, SEED, 0), ValueError, "t: expected"),
        (lambda: OPS.q_sample(X0, T, TABLE.float(), None, SEED, 0), ValueError, "table: expected"),
        (lambda: OPS.q_sample(X0, T, TABLE[:1], None, SEED, 0), ValueError, "table: expected"),
        (lambda: OPS.q_sample(X0, T, TABLE, X0[:2], None, 0), ValueError, "noise: expected"),
        (lambda: OPS.q_sample(X0, T, TABLE, None, None, 0), ValueError, "seed: expected"),
        (lambda: OPS.q_sample_target(X0, T, TABLE, None, SEED, 0, "x0"), ValueError, "target: expected"),
        (lambda: OPS.q_sample_backward(X0, T, TABLE, 2), ValueError, "row: expected"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
