"""What is particular to reverse steps: diffusers as a peer, closed forms, quantiles, samplers that reach the data."""

import diffusers
import pytest
import torch
from raw_ops import LAYOUTS, opcheck_in_layout

import dgmkern

OPS = torch.ops.dgmkern
S = dgmkern.DiffusionSchedule.linear(1000)
BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
SEED = torch.tensor([7])
X, OUT, NOISE = torch.randn(3, 2, 3, 4, 5, dtype=torch.float64).unbind()
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
EXACT = {"rtol": 1e-9, "atol": 1e-10}


def exact(peer):
    """A scheduler of diffusers with our tables: its own, in fp32, are off by up to 4e-4 where beta is small."""
    peer.betas, peer.alphas, peer.alphas_cumprod = S.betas, S.alphas, S.alphas_cumprod
    peer.one = peer.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return peer


@pytest.fixture
def noise_is_given(monkeypatch):
    """Makes diffusers take NOISE for the noise it draws."""
    monkeypatch.setattr(diffusers.schedulers.scheduling_ddpm, "randn_tensor", lambda shape, **_: NOISE)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("t", [0, 1, 500, 999])
@pytest.mark.usefixtures("noise_is_given")
def test_p_sample_is_diffusers_step(prediction, variance, clip, t):
    peer = exact(
        diffusers.DDPMScheduler(
            **BETAS, prediction_type=PREDICTIONS[prediction], variance_type=variance, clip_sample=clip is not None
        )
    )
    expected = peer.step(OUT, t, X)
    got = dgmkern.p_sample(
        OUT, X, t, S, prediction=prediction, variance=variance, clip=clip, noise=NOISE, return_x0=True
    )
    torch.testing.assert_close(got[0], expected.prev_sample, **EXACT)
    torch.testing.assert_close(got[1], expected.pred_original_sample, **EXACT)


@pytest.mark.parametrize("t", [1, 2, 400, 998])
@pytest.mark.usefixtures("noise_is_given")
def test_learned_range_is_diffusers_step(t):
    peer = exact(diffusers.DDPMScheduler(**BETAS, variance_type="learned_range", clip_sample=False))
    model_out = torch.cat([OUT, torch.tanh(NOISE)], 1)
    got = dgmkern.p_sample(model_out, X, t, S, variance="learned_range", noise=NOISE)
    torch.testing.assert_close(got, peer.step(model_out, t, X).prev_sample, **EXACT)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_is_diffusers_step(prediction, clip, eta):
    peer = exact(
        diffusers.DDIMScheduler(**BETAS, prediction_type=PREDICTIONS[prediction], clip_sample=clip is not None)
    )
    peer.set_timesteps(50)
    for t in (0, 20, 500, 980):
        given = NOISE if eta else None
        expected = peer.step(OUT, t, X, eta=eta, use_clipped_model_output=True, variance_noise=given).prev_sample
        got = dgmkern.ddim_step(OUT, X, t, max(t - 20, -1), S, eta=eta, prediction=prediction, clip=clip, noise=given)
        torch.testing.assert_close(got, expected, **EXACT)


def test_dpm_solver_is_diffusers_sampler():
    """A whole run of 20 steps with a model that depends on x and t."""
    peer = diffusers.DPMSolverMultistepScheduler(**BETAS, algorithm_type="dpmsolver++", final_sigmas_type="zero")
    peer.set_timesteps(20)
    steps = peer.timesteps.tolist()

    def model(x, t):
        return torch.sin(3 * x) * (0.2 + t / 1000)

    expected, x, x0, last = X.float(), X.float(), None, None
    for t, t_prev in zip(steps, [*steps[1:], -1], strict=True):
        expected = peer.step(model(expected, t), t, expected).prev_sample
        x, x0 = dgmkern.dpm_solver_step(model(x, t), x, t, t_prev, S, x0_last=x0, t_last=last)
        last = t
    torch.testing.assert_close(x, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("shape", [(3, 1), (4, 7), (2, 3, 40, 41), (2, 50_000)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dynamic_bound_is_torch_quantile(quantile, shape, dtype):
    x0 = (torch.randn(shape, dtype=torch.float64) * 2).to(dtype)
    t = torch.full(shape[:1], 10)
    got = OPS.dynamic_bound(x0, torch.zeros_like(x0), t, S.p_table("cpu"), "x0", quantile)
    expected = torch.quantile(x0.abs().double().flatten(1), quantile, dim=1).clamp(min=1)
    torch.testing.assert_close(got, expected, rtol=1e-15, atol=0)


def test_dynamic_bound_with_equal_numbers_infinities_and_nan():
    def bound(row, q):
        x0 = torch.tensor([row])
        return OPS.dynamic_bound(x0, x0, torch.tensor([5]), S.p_table("cpu"), "x0", q).item()

    inf, nan = float("inf"), float("nan")
    assert bound([3.0, -3.0, 3.0, 3.0], 0.7) == 3
    assert bound([0.0, -0.0, 0.0], 0.5) == 1
    assert bound([2.0, inf, 4.0], 0.5) == 4
    assert bound([2.0, -inf, 4.0], 0.9) == inf
    assert bound([2.0, nan, 4.0], 0.0) != bound([2.0, nan, 4.0], 0.0)
    wide = torch.cat([torch.full((1, 3000), 2.5), torch.full((1, 3000), 0.25)], 1)  # the histogram's way
    for q, expected in ((0.9, 2.5), (0.4, 1.0), (0.5, 1.375)):
        assert OPS.dynamic_bound(wide, wide, torch.tensor([5]), S.p_table("cpu"), "x0", q).item() == expected


def test_dynamic_thresholding_is_diffusers():
    peer = diffusers.DDPMScheduler(
        **BETAS, prediction_type="sample", thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1e9
    )
    got = dgmkern.p_sample(
        3 * OUT.float(), X.float(), 0, S, prediction="x0", clip="dynamic", quantile=0.9, seed=1, return_x0=True
    )
    torch.testing.assert_close(got[1], peer.step(3 * OUT.float(), 0, X.float()).pred_original_sample)


def test_ddim_with_eta_one_is_ddpm():
    for t in (0, 1, 300, 999):
        how = {"noise": NOISE} if t else {}
        ddpm = dgmkern.p_sample(OUT, X, t, S, noise=NOISE)
        ddim = dgmkern.ddim_step(OUT, X, t, t - 1, S, eta=1.0 if t else 0.0, **how)
        torch.testing.assert_close(ddim, ddpm, rtol=1e-10, atol=1e-10)


def test_dpm_solver_of_first_order_is_ddim():
    for t, t_prev in ((999, 800), (400, 390), (10, -1)):
        x, x0 = dgmkern.dpm_solver_step(OUT, X, t, t_prev, S)
        expected = dgmkern.ddim_step(OUT, X, t, t_prev, S, return_x0=True)
        torch.testing.assert_close((x, x0), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_sampler_returns_to_the_data_with_the_true_model(prediction):
    """Where all data is one image, the best model is known; every sampler must end at that image."""
    image = torch.rand(1, 3, 4, 4, dtype=torch.float64) * 2 - 1
    s = S.respaced(40)

    def model(x, t):
        a, b = s.sqrt_alphas_cumprod[t], s.sqrt_one_minus_alphas_cumprod[t]
        eps = (x - a * image) / b
        return {"eps": eps, "x0": image.expand_as(x), "v": a * eps - b * image}[prediction]

    start = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    ddpm = ddim = dpm = start
    x0 = last = None
    for t in range(s.steps - 1, -1, -1):
        ddpm = dgmkern.p_sample(model(ddpm, t), ddpm, t, s, prediction=prediction)
        ddim = dgmkern.ddim_step(model(ddim, t), ddim, t, t - 1, s, prediction=prediction)
        dpm, x0 = dgmkern.dpm_solver_step(
            model(dpm, t), dpm, t, t - 1, s, x0_last=x0, t_last=last, prediction=prediction
        )
        last = t
    for x in (ddpm, ddim, dpm):
        torch.testing.assert_close(x, image.expand_as(x), rtol=1e-6, atol=1e-6)


def test_ddim_goes_up_and_comes_back():
    x = X
    for t in (100, 300, 600):
        x = dgmkern.ddim_step(OUT, x, t, t + 50, S)
    for t in (600, 300, 100):
        x = dgmkern.ddim_step(OUT, x, t + 50, t, S)
    torch.testing.assert_close(x, X, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned", "learned_range"])
def test_noise_of_a_step_has_the_variance_of_its_kind(variance):
    t, n = 500, 200_000
    small, large = S.posterior_variance[t], S.betas[t]
    expected = {
        "fixed_small": small,
        "fixed_large": large,
        "learned": 0.3**2,
        "learned_range": small**0.75 * large**0.25,
    }
    out = torch.zeros(1, 1, n)
    if variance.startswith("learned"):
        v = 2 * torch.log(torch.tensor(0.3)) if variance == "learned" else torch.tensor(-0.5)
        out = torch.cat([out, v.expand(1, 1, n)], 1)
    x = dgmkern.p_sample(out, torch.zeros(1, 1, n), t, S, variance=variance, seed=3).double()
    assert abs(x.var().item() / float(expected[variance]) - 1) < 5 * (2 / n) ** 0.5


def test_no_noise_at_the_last_step():
    model_out = torch.cat([OUT, 5 + NOISE.abs()], 1)
    for how in ({"variance": "fixed_large"}, {"variance": "learned"}, {"variance": "learned_range"}):
        out = model_out if "learned" in how["variance"] else OUT
        one, two = (dgmkern.p_sample(out, X, 0, S, seed=seed, **how) for seed in (1, 2))
        assert torch.equal(one, two)


def test_low_precision_keeps_the_last_steps():
    """A table in bf16 would round 1 - beta to 1: the posterior's coefficients would be 0 or 1 off."""
    x = torch.ones(1, 1, 64, dtype=torch.bfloat16)
    for t in (1, 2, 5):
        got = dgmkern.p_sample(torch.zeros_like(x), x, t, S, noise=torch.ones_like(x)).double()
        exact = 1 / S.alphas[t].sqrt() + S.posterior_variance[t].sqrt()
        assert abs(got.mean().item() / exact.item() - 1) < 2**-8


def test_zero_terminal_snr_samples_with_v_and_refuses_eps():
    s = S.zero_terminal_snr()
    for call in (
        lambda p: dgmkern.p_sample(OUT, X, 999, s, prediction=p),
        lambda p: dgmkern.ddim_step(OUT, X, 999, 900, s, prediction=p),
        lambda p: dgmkern.dpm_solver_step(OUT, X, 999, 900, s, prediction=p)[0],
    ):
        assert call("v").isfinite().all()
        with pytest.raises(ValueError, match="zero terminal SNR"):
            call("eps")
    x, x0 = dgmkern.dpm_solver_step(OUT, X, 999, 900, s, prediction="v")
    assert dgmkern.dpm_solver_step(OUT, x, 900, 800, s, x0_last=x0, t_last=999, prediction="v")[0].isfinite().all()


def test_ddim_takes_the_prediction_of_a_model_that_also_gives_a_variance():
    both = torch.cat([OUT, NOISE], 1).requires_grad_()
    x = dgmkern.ddim_step(both, X, 300, 200, S)
    assert torch.equal(x, dgmkern.ddim_step(OUT, X, 300, 200, S))
    (grad,) = torch.autograd.grad(x.sum(), both)
    assert (grad[:, 3:] == 0).all()
    assert (grad[:, :3] != 0).all()


def test_ranks_that_split_a_batch_step_as_one_process_does():
    whole = dgmkern.p_sample(OUT, X, 300, S, seed=SEED)
    for rank in range(2):
        part = slice(rank, rank + 1)
        assert torch.equal(dgmkern.p_sample(OUT[part], X[part], 300, S, seed=SEED, offset=60 * rank), whole[part])


def step_args(solver, variance="fixed_small", clip=None, last=False, bound=False, eta=0.0):
    def make(x):
        out = torch.cat([x(), x()], 1) if variance.startswith("learned") else x()
        t, t_next, t_last = torch.tensor([5, 300]), torch.tensor([-1, 200]), torch.tensor([9, 400])
        draws = solver == "ddpm" or eta
        return (
            *(
                out.detach().requires_grad_(),
                x(),
                x() if last else None,
                torch.tensor([1.5, 2.0]).double() if bound else None,
            ),
            *(t, None if solver == "ddpm" else t_next, t_last if last else None, S.p_table("cpu"), None),
            *(SEED if draws else None, 3, solver, "v", variance, eta, clip),
        )

    return make


RAW = [
    (OPS.reverse_step, step_args("ddpm")),
    (OPS.reverse_step, step_args("ddpm", "learned_range", 1.0)),
    (OPS.reverse_step, step_args("ddim", eta=0.5, bound=True)),
    (OPS.reverse_step_x0, step_args("ddpm", "learned")),
    (OPS.reverse_step_x0, step_args("dpm_solver", last=True, clip=1.0)),
    (OPS.reverse_step_backward, lambda x: (x(), *step_args("ddpm", "learned_range", 1.0)(x))),
    (OPS.reverse_step_backward, lambda x: (x(), *step_args("ddim")(x))),
    (OPS.reverse_step_x0_backward, lambda x: (x(), x(), *step_args("dpm_solver", last=True)(x))),
    (OPS.dynamic_bound, lambda x: (x(), x(), torch.tensor([5, 300]), S.p_table("cpu"), "v", 0.9)),
]


@pytest.mark.parametrize(("op", "make"), RAW, ids=lambda v: getattr(v, "__name__", ""))
@LAYOUTS
def test_opcheck(op, make, layout):
    opcheck_in_layout(op, make, (2, 3, 4, 5), layout)


@pytest.mark.parametrize(("op", "make"), RAW, ids=lambda v: getattr(v, "__name__", ""))
def test_raw_ops_refuse_shapes_that_do_not_fit(op, make):
    args = list(make(lambda: torch.randn(2, 3, 4, 5)))
    for i, arg in enumerate(args):
        if isinstance(arg, torch.Tensor) and arg is not SEED:
            spoiled = list(args)
            spoiled[i] = torch.zeros(1, 3, 4, dtype=arg.dtype)
            with pytest.raises(ValueError, match="expected"):
                op(*spoiled)


TWICE = torch.cat([OUT, OUT], 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dgmkern.p_sample(OUT, X, 1000, S), IndexError, r"t: expected steps in \[0, 1000\), got 1000"),
        (lambda: dgmkern.p_sample(OUT, X, torch.tensor([0, -1]), S), IndexError, "t: expected.*got -1"),
        (lambda: dgmkern.ddim_step(OUT, X, 5, -2, S), IndexError, r"t_prev: expected steps in \[-1, 1000\), got -2"),
        (lambda: dgmkern.ddim_step(OUT, X, 5, torch.tensor([3, 1000]), S), IndexError, "t_prev: expected.*1000"),
        (lambda: dgmkern.p_sample(TWICE, X, 5, S), ValueError, r"model_out.*\(2, 3, 4, 5\).*\(2, 6, 4, 5\)"),
        (lambda: dgmkern.p_sample(OUT, X, 5, S, variance="learned"), ValueError, r"model_out: expected \[N, 2 C"),
        (
            lambda: dgmkern.p_sample(TWICE.float(), X, 5, S, variance="learned"),
            TypeError,
            "model_out.*float64.*float32",
        ),
        (lambda: dgmkern.p_sample(OUT, X, 5, S, variance="small"), ValueError, "variance: expected"),
        (lambda: dgmkern.p_sample(OUT, X, 5, S, prediction="noise"), ValueError, "prediction: expected"),
        (lambda: dgmkern.p_sample(OUT, X, 5, S, clip=0), ValueError, "clip: expected"),
        (lambda: dgmkern.p_sample(OUT, X, 5, S, clip="static"), TypeError, "clip: expected"),
        (lambda: dgmkern.p_sample(OUT, X, 5, S, clip=True), TypeError, "clip: expected"),
        (lambda: dgmkern.p_sample(OUT, X, 5, S, clip="dynamic", quantile=1.5), ValueError, "quantile: expected"),
        (lambda: dgmkern.p_sample(OUT, X, 5, [1]), TypeError, "s: expected"),
        (lambda: dgmkern.ddim_step(OUT, X, 5, 4, S, eta=-1), ValueError, "eta: expected"),
        (lambda: dgmkern.ddim_step(OUT, X, 5, 4, S, seed=1), ValueError, "eta: expected a positive"),
        (lambda: dgmkern.dpm_solver_step(OUT, X, 5, 4, S, x0_last=X), ValueError, "x0_last, t_last"),
        (lambda: dgmkern.dpm_solver_step(OUT, X, 5, 4, S, x0_last=X[:1], t_last=7), ValueError, "x0_last: expected"),
        (lambda: dgmkern.dpm_solver_step(OUT, X, 5, 4, S, x0_last=X, t_last=7.5), TypeError, "t_last: expected"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
