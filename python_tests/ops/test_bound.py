"""What is particular to the losses of diffusion: closed forms, peers, the bound of a known model, the gradient stop."""

import math

import mpmath
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from raw_ops import LAYOUTS, opcheck_in_layout
from torch.distributions import Normal, kl_divergence

import dgmkern

OPS = torch.ops.dgmkern
S = dgmkern.DiffusionSchedule.linear(1000)
SEED = torch.tensor([7])
T = torch.tensor([0, 1, 500, 999])
X0, OUT, V = (torch.rand(3, 4, 3, 4, 5, dtype=torch.float64) * 2 - 1).unbind()
BOTH = torch.cat([OUT, V], 1)
VARIANCES = ["fixed_small", "fixed_large", "learned", "learned_range"]


def over(table, t=T):
    return table[t].reshape(-1, 1, 1, 1)


def logvar_of(variance):
    small, large = over(S.posterior_log_variance_clipped), over(S.betas.log())
    return {
        "fixed_small": small.expand_as(X0),
        "fixed_large": torch.where(over(torch.arange(1000)) == 0, small, large).expand_as(X0),
        "learned": V,
        "learned_range": (1 + V) / 2 * large + (1 - V) / 2 * small,
    }[variance]


def test_the_simple_loss_is_mse_of_what_q_sample_drew():
    for prediction in ("eps", "x0", "v"):
        _, target = dgmkern.q_sample(X0, T, S, seed=SEED, offset=5, target=prediction)
        expected = ((OUT - target) ** 2).mean((1, 2, 3))
        got = dgmkern.diffusion_mse(OUT, X0, T, S, seed=SEED, offset=5, prediction=prediction)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
        weight = torch.rand(4)
        got = dgmkern.diffusion_mse(OUT, X0, T, S, seed=SEED, offset=5, prediction=prediction, weight=weight)
        torch.testing.assert_close(got, weight.double() * expected, rtol=1e-12, atol=0)


def test_min_snr_weights_are_those_of_the_field():
    snr = compute_snr(DDPMScheduler(num_train_timesteps=1000), torch.arange(1000)).double()
    least = snr.clamp(max=5)
    for prediction, expected in (("eps", least / snr), ("x0", least), ("v", least / (snr + 1))):
        torch.testing.assert_close(S.min_snr_weights(prediction), expected, rtol=3e-4, atol=0)  # theirs in fp32
    assert S.zero_terminal_snr().min_snr_weights("eps")[-1] == 1
    with pytest.raises(ValueError, match="gamma"):
        S.min_snr_weights("eps", gamma=0)
    with pytest.raises(ValueError, match="prediction"):
        S.min_snr_weights("noise")


def test_noise_is_never_in_memory():
    out = OUT.clone().requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        dgmkern.diffusion_mse(out, X0, T, S, seed=SEED)
    assert {x.data_ptr() for x in saved if x.numel() == X0.numel()} == {out.data_ptr(), X0.data_ptr()}


@pytest.mark.parametrize("variance", VARIANCES)
def test_vb_is_the_kl_of_torch_distributions(variance):
    """At t > 0: of the posterior from the model's step, which p_sample takes with the same arguments."""
    x_t = dgmkern.q_sample(X0, T, S, seed=SEED)
    model_out = BOTH if variance.startswith("learned") else OUT
    mean_q, logvar_q = dgmkern.q_posterior(X0, x_t, T, S)
    mean_p = dgmkern.p_sample(model_out, x_t, T, S, variance=variance, noise=torch.zeros_like(X0))
    kl = kl_divergence(Normal(mean_q, (logvar_q / 2).exp()), Normal(mean_p, (logvar_of(variance) / 2).exp()))
    got = dgmkern.vb_terms(model_out, X0, x_t, T, S, variance=variance)
    torch.testing.assert_close(got[1:], kl.mean((1, 2, 3))[1:] / math.log(2), rtol=1e-9, atol=0)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_decoder_term_is_exact(variance, dtype):
    """t = 0 against mpmath, in the middle, at both ends of [-1, 1] and far off."""
    mpmath.mp.dps = 40
    x0 = torch.tensor([[-1.0, 1.0, 0.0, 2 / 255 - 1, 0.3, -0.5]], dtype=dtype)
    out = torch.tensor([[-0.99, 0.9, 0.01, -1.0, 0.5, 1.0]], dtype=dtype)
    v = torch.linspace(-1, 1, 6, dtype=dtype)[None]
    model_out = torch.cat([out, v], 1) if variance.startswith("learned") else out
    got = dgmkern.vb_terms(model_out, x0, x0, 0, S, prediction="x0", variance=variance).item()
    small, large = S.posterior_log_variance_clipped[0].item(), S.betas[0].log().item()
    total = mpmath.mpf(0)
    for x, mean, w in zip(*(y[0].double().tolist() for y in (x0, out, v)), strict=True):
        half = (1 + mpmath.mpf(w)) / 2
        logvar = {"learned": mpmath.mpf(w), "learned_range": half * large + (1 - half) * small}.get(variance, small)
        scale, delta = mpmath.exp(logvar / 2), mpmath.mpf(1) / 255
        upper = mpmath.inf if x > 0.999 else (x + delta - mean) / scale
        lower = -mpmath.inf if x < -0.999 else (x - delta - mean) / scale
        if lower > 0:  # where both are near 1, the other tail keeps the digits
            upper, lower = -lower, -upper
        total -= mpmath.log(mpmath.ncdf(upper) - mpmath.ncdf(lower))
    assert got == pytest.approx(float(total / 6 / mpmath.log(2)), rel=1e-12 if dtype == torch.float64 else 2e-6)


def test_clipping_the_prediction_in_the_bound():
    x_t = dgmkern.q_sample(X0, T, S, seed=SEED)
    got = dgmkern.vb_terms(3 * OUT, X0, x_t, T, S, prediction="x0", clip=1.0)
    expected = dgmkern.vb_terms((3 * OUT).clamp(-1, 1), X0, x_t, T, S, prediction="x0")
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    out = (3 * OUT).requires_grad_()
    (grad,) = torch.autograd.grad(dgmkern.vb_terms(out, X0, x_t, T, S, prediction="x0", clip=1.0).sum(), out)
    assert ((grad == 0) == (out.abs() > 1)).all()


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_hybrid_terms_are_its_two_losses(prediction, variance):
    x_t = dgmkern.q_sample(X0, T, S, seed=SEED)
    weight = torch.rand(4)
    mse, vb = dgmkern.hybrid_terms(BOTH, X0, T, S, seed=SEED, prediction=prediction, variance=variance, weight=weight)
    torch.testing.assert_close(
        mse, dgmkern.diffusion_mse(OUT, X0, T, S, seed=SEED, prediction=prediction, weight=weight), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        vb, dgmkern.vb_terms(BOTH, X0, x_t, T, S, prediction=prediction, variance=variance), rtol=1e-9, atol=0
    )


def test_the_bound_of_the_hybrid_loss_trains_the_variance_alone():
    """As eager code with a detached prediction does, in every order of differentiation."""
    x_t, target = dgmkern.q_sample(X0, T, S, seed=SEED, target="v")
    both = BOTH.clone().requires_grad_()
    mse, vb = dgmkern.hybrid_terms(both, X0, T, S, seed=SEED, prediction="v")
    stopped = torch.cat([both[:, :3].detach(), both[:, 3:]], 1)
    for got, expected in (
        (mse, ((both[:, :3] - target) ** 2).mean((1, 2, 3))),
        (vb, dgmkern.vb_terms(stopped, X0, x_t, T, S, prediction="v", variance="learned_range")),
    ):
        ours = torch.autograd.grad(got.sum(), both, create_graph=True)[0]
        theirs = torch.autograd.grad(expected.sum(), both, create_graph=True)[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)
        second = [torch.autograd.grad((g**2).sum(), both, retain_graph=True)[0] for g in (ours, theirs)]
        torch.testing.assert_close(*second, rtol=1e-8, atol=1e-12)
    (of_vb,) = torch.autograd.grad(dgmkern.hybrid_terms(both, X0, T, S, seed=SEED)[1].sum(), both)
    assert (of_vb[:, :3] == 0).all()
    assert (of_vb[:, 3:] != 0).all()


def test_both_halves_of_the_model_learn_from_the_bound():
    both = BOTH.clone().requires_grad_()
    x_t = dgmkern.q_sample(X0, T, S, seed=SEED)
    (grad,) = torch.autograd.grad(dgmkern.vb_terms(both, X0, x_t, T, S, variance="learned_range").sum(), both)
    assert (grad != 0).all()


def test_the_hybrid_loss_cancels_nothing_in_fp32():
    """A prediction that is off by 1e-4: the error of x_0 is a difference of numbers 1e4 times as large."""
    eps = dgmkern.normal(X0.shape, SEED, dtype=torch.float64)
    both = torch.cat([eps + 1e-4 * OUT, V], 1)
    t = torch.full((4,), 3)
    exact = dgmkern.hybrid_terms(both, X0, t, S, seed=SEED)
    x32, b32 = X0.float(), torch.cat([(eps.float() + 1e-4 * OUT.float()), V.float()], 1)
    got = dgmkern.hybrid_terms(b32, x32, t, S, seed=SEED)
    exact = dgmkern.hybrid_terms(b32.double(), x32.double(), t, S, seed=SEED)
    for a, b in zip(got, exact, strict=True):
        assert ((a.double() - b).abs() <= 2e-6 * b.abs()).all()


def test_prior_bound_is_the_kl_of_torch_distributions():
    s = dgmkern.DiffusionSchedule.linear(50, beta_end=0.01)
    mean, std = s.sqrt_alphas_cumprod[-1] * X0, s.sqrt_one_minus_alphas_cumprod[-1]
    expected = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).mean((1, 2, 3)) / math.log(2)
    torch.testing.assert_close(dgmkern.prior_bound(X0, s), expected, rtol=1e-11, atol=0)
    assert (dgmkern.prior_bound(X0, S.zero_terminal_snr()) == 0).all()


def test_the_terms_of_a_perfect_model_add_up_to_the_entropy():
    """Data N(0, 0.04): with the true reverse process the bound is exact: all terms add up to -log p(x), up to the
    discretization. Independent of every formula in the library."""
    n, var = 20_000, 0.04
    s = dgmkern.DiffusionSchedule.linear(100)
    x0 = torch.randn(n, 1, dtype=torch.float64) * var**0.5
    total = dgmkern.prior_bound(x0, s).mean()
    for t in range(s.steps):
        x_t = dgmkern.q_sample(x0, t, s, seed=t)
        # p(x_{t-1} | x_t) of Gaussian data is Gaussian: its x_0 is the regression of x_0 on x_t
        abar, beta = s.alphas_cumprod[t], s.betas[t]
        marginal = abar * var + 1 - abar
        predicted = s.sqrt_alphas_cumprod[t] * var / marginal * x_t
        left = var * (1 - abar) / marginal
        logvar = (s.posterior_variance[t] + s.posterior_mean_coef1[t] ** 2 * left).log()
        assert beta > 0
        model_out = torch.cat([predicted, logvar.expand_as(predicted)], 1)
        total = total + dgmkern.vb_terms(model_out, x0, x_t, t, s, prediction="x0", variance="learned").mean()
    entropy = 0.5 * math.log(2 * math.pi * math.e * var) - math.log(2 / 255)  # nats, of levels 2 / 255 wide
    assert total.item() == pytest.approx(entropy / math.log(2), rel=0.01)


def mse_args(x):
    return x(), x(), T, S.q_table("cpu"), torch.rand(4).double(), None, SEED, 3, "v"


def vb_args(x, variance="fixed_small", clip=None):
    out = torch.cat([x(), x()], 1).detach().requires_grad_() if variance.startswith("learned") else x()
    return out, x(), x(), T, S.p_table("cpu"), "eps", variance, clip


def hybrid_args(x, frozen=True):
    out = torch.cat([x(), x()], 1).detach().requires_grad_()
    return out, x(), T, S.p_table("cpu"), torch.rand(4).double(), x(), None, 0, "x0", "learned_range", frozen


def grad():
    return torch.rand(4, requires_grad=True)


RAW = [
    (OPS.diffusion_mse, mse_args),
    (OPS.diffusion_mse_backward, lambda x: (grad(), *mse_args(x))),
    (OPS.vb_terms, vb_args),
    (OPS.vb_terms, lambda x: vb_args(x, "learned", 1.0)),
    (OPS.vb_terms_backward, lambda x: (grad(), *vb_args(x, "learned_range"))),
    (OPS.hybrid_terms, hybrid_args),
    (OPS.hybrid_terms_backward, lambda x: (grad(), grad(), *hybrid_args(x, False))),
    (OPS.prior_bound, lambda x: (x(), 0.3)),
    (OPS.prior_bound_backward, lambda x: (grad(), x(), 0.3)),
]


@pytest.mark.parametrize(("op", "make"), RAW, ids=lambda v: getattr(v, "__name__", ""))
@LAYOUTS
def test_opcheck(op, make, layout):
    opcheck_in_layout(op, make, (4, 3, 5, 6), layout)


@pytest.mark.parametrize(("op", "make"), RAW, ids=lambda v: getattr(v, "__name__", ""))
def test_raw_ops_refuse_shapes_that_do_not_fit(op, make):
    args = list(make(lambda: torch.randn(4, 3, 5, 6)))
    tensors = [i for i, arg in enumerate(args) if isinstance(arg, torch.Tensor) and arg is not SEED]
    for i in tensors:
        if len(tensors) > 1:
            spoiled = list(args)
            spoiled[i] = torch.zeros(1, 3, 4, dtype=args[i].dtype)
            with pytest.raises(ValueError, match="expected"):
                op(*spoiled)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dgmkern.diffusion_mse(OUT, X0, T, S), ValueError, "seed: expected"),
        (
            lambda: dgmkern.diffusion_mse(OUT, X0, T, S, seed=1, weight=torch.ones(3)),
            ValueError,
            r"weight: .*\(4,\).*\(3,",
        ),
        (lambda: dgmkern.diffusion_mse(OUT, X0, T, S, seed=1, weight=2.0), TypeError, "weight: expected"),
        (lambda: dgmkern.diffusion_mse(OUT, X0, T, S, seed=1, weight=T), TypeError, "weight: expected.*int64"),
        (lambda: dgmkern.diffusion_mse(BOTH, X0, T, S, seed=1), ValueError, "model_out: expected"),
        (lambda: dgmkern.diffusion_mse(OUT, X0, T, S, seed=1, prediction="y"), ValueError, "prediction: expected"),
        (lambda: dgmkern.diffusion_mse(OUT, X0, T + 1, S, seed=1), IndexError, "t: expected.*1000"),
        (lambda: dgmkern.vb_terms(OUT, X0, X0[:2], T, S), ValueError, "x_t: expected"),
        (lambda: dgmkern.vb_terms(OUT, X0, X0, T, S, clip="dynamic"), ValueError, "clip: expected"),
        (lambda: dgmkern.vb_terms(OUT, X0, X0, T, S, variance="big"), ValueError, "variance: expected"),
        (lambda: dgmkern.vb_terms(OUT, X0, X0, T, S.zero_terminal_snr()), ValueError, "zero terminal SNR"),
        (lambda: dgmkern.hybrid_terms(OUT, X0, T, S, seed=1), ValueError, r"model_out: expected \[N, 2 C"),
        (
            lambda: dgmkern.hybrid_terms(BOTH, X0, T, S, seed=1, variance="fixed_small"),
            ValueError,
            "variance: expected",
        ),
        (lambda: dgmkern.prior_bound(X0.int(), S), TypeError, "x0: expected"),
        (lambda: dgmkern.prior_bound(X0, "linear"), TypeError, "s: expected"),
        (lambda: OPS.hybrid_terms(*hybrid_args(lambda: X0)[:9], "fixed_small", True), ValueError, "variance: expected"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
