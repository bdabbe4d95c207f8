import dataclasses
import math

import numpy as np
import pytest
import scipy.integrate
import torch
from torch.distributions import Normal, kl_divergence
from usual_vae import linear_gaussian

from dgmkern import normal
from dgmkern.models.vae import VAE, Posterior, VAEConfig
from dgmkern.models.vae_inference import amortization_gap, hmc, langevin, log_joint, svi

pytestmark = pytest.mark.usefixtures("one_thread")


def kl_from_posterior(q: Posterior, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """KL(q || p(z|x)) of each datum for a diagonal p(z|x): how far the ELBO is below log p(x)."""
    p = Normal(mean, covariance.diagonal().sqrt())
    return kl_divergence(Normal(q.mu, torch.exp(q.logvar / 2)), p).sum(1).detach()


def test_svi_finds_the_exact_posterior_of_a_linear_gaussian_model():
    model, x, _, mean, covariance = linear_gaussian(orthogonal=True)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    q = svi(model, x, seed=0, steps=1500)
    assert kl_from_posterior(model.posterior(x), mean, covariance).mean() > 1
    assert kl_from_posterior(q, mean, covariance).max() < 0.02
    assert (q.mu - mean).abs().max() < 0.1
    assert (q.logvar - covariance.diagonal().log()).abs().max() < 0.2
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_svi_raises_the_bound_and_stays_at_the_optimum():
    model, x, _, mean, covariance = linear_gaussian(orthogonal=True)
    gaps = [kl_from_posterior(svi(model, x, seed=1, steps=n), mean, covariance).mean() for n in (0, 20, 80, 400)]
    assert gaps == sorted(gaps, reverse=True)
    exact = Posterior(mean, covariance.diagonal().log().expand_as(mean))
    assert kl_from_posterior(svi(model, x, seed=1, steps=200, lr=0.01, q=exact), mean, covariance).mean() < 0.01


def test_svi_of_a_datum_does_not_depend_on_its_neighbours():
    model, x, *_ = linear_gaussian(orthogonal=False)
    every, first = svi(model, x, seed=1, steps=30), svi(model, x[:5], seed=1, steps=30)
    assert (every.mu[:5] - first.mu).abs().max() < 1e-12


def test_svi_leaves_a_fixed_variance_as_it_is():
    model, x, _, mean, _ = linear_gaussian(orthogonal=True, posterior_logvar=-2.0)
    q = svi(model, x, seed=0, steps=1000)
    assert (q.logvar == -2).all()
    assert (q.mu - mean).abs().max() < 0.1


def test_amortization_gap_is_the_kl_from_the_posterior_that_svi_removes():
    model, x, _, mean, covariance = linear_gaussian(orthogonal=True)
    gap = amortization_gap(model, x, seed=3, steps=1000, samples=400)
    want = kl_from_posterior(model.posterior(x), mean, covariance)
    # the error of a mean of 400 samples of log p(x|z), whose spread is that of a few nats
    assert (gap - want).abs().max() < 0.2 * want.max()
    assert (gap - want).mean().abs() < 0.02 * want.mean()
    assert gap.min() > -0.1


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "discretized_gaussian"])
def test_semi_amortized_gradient_is_that_of_finite_differences(likelihood):
    torch.manual_seed(2)
    config = VAEConfig(
        encoder=(6,), decoder=(5,), latent=2, likelihood=likelihood, refinement="semi_amortized", refinement_size=0.02
    )
    model, x = VAE(config, (1, 3, 4)).double(), 0.5 * torch.randn(4, 1, 3, 4, dtype=torch.float64)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(model.loss(x, seed=0), parameters)
    direction = [torch.randn_like(p) for p in parameters]
    h, losses = 1e-5, []
    for step in (h, -2 * h):
        with torch.no_grad():
            for p, v in zip(parameters, direction, strict=True):
                p.add_(step * v)
        losses.append(model.loss(x, seed=0).item())
    want = (losses[0] - losses[1]) / (2 * h)
    got = sum((g * v).sum() for g, v in zip(gradients, direction, strict=True)).item()
    assert got == pytest.approx(want, rel=1e-6)


def test_more_semi_amortized_steps_come_nearer_to_the_likelihood():
    model, x, *_ = linear_gaussian(orthogonal=True, refinement="semi_amortized", refinement_size=0.05)
    losses = []
    for n in (1, 3, 10):
        model.config = dataclasses.replace(model.config, refinement_steps=n)
        losses.append(np.mean([model.loss(x, seed=seed).item() for seed in range(30)]))
    assert losses[0] > losses[1] + 0.1 > losses[2] + 0.2


# ---- Markov chains --------------------------------------------------------------------------------------------------


def moments_match(z: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> None:
    """Mean and covariance of independent rows within 4.5 standard errors of a Gaussian's."""
    n, variances = len(z), covariance.diagonal()
    assert ((z.mean(0) - mean).abs() < 4.5 * (variances / n).sqrt()).all()
    errors = ((variances[:, None] * variances + covariance**2) / n).sqrt()
    assert ((torch.cov(z.T) - covariance).abs() < 4.5 * errors).all()


@pytest.mark.parametrize(("leapfrog_steps", "steps"), [(1, 150), (3, 60)], ids=["langevin", "hmc"])
@pytest.mark.parametrize("target", ["standard", "correlated"])
def test_hmc_leaves_a_gaussian_invariant_and_reaches_it(target, leapfrog_steps, steps):
    mean, covariance = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    if target == "correlated":
        mean, covariance = mean + torch.tensor([3.0, -1.0]), torch.tensor([[2.0, 0.9], [0.9, 0.6]], dtype=torch.double)
    precision = torch.linalg.inv(covariance)

    def log_prob(z):
        return -((z - mean) @ precision * (z - mean)).sum(1) / 2

    exact = mean + torch.randn(20000, 2, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    # steps so large that without the Metropolis test the variance would be off by a tenth
    options = {
        "step_size": 0.7,
        "leapfrog_steps": leapfrog_steps,
        "scale": covariance.diagonal().sqrt().expand(20000, 2),
    }
    chain = hmc(log_prob, exact, seed=0, steps=5, **options)
    moments_match(chain.z, mean, covariance)
    assert 0.3 < chain.accepted.mean() < 0.99
    far = hmc(log_prob, exact * 0 + 6, seed=1, steps=steps, **options)
    moments_match(far.z, mean, covariance)


def test_hmc_samples_a_density_that_is_not_gaussian():
    def density(u):
        return math.exp(-(u**4) / 4)

    wanted = [scipy.integrate.quad(lambda u, k=k: u**k * density(u), -9, 9)[0] for k in (0, 2, 4)]
    z = hmc(
        lambda z: -(z**4).sum(1) / 4, torch.zeros(20000, 1, dtype=torch.float64), seed=2, steps=40, step_size=0.8,
        leapfrog_steps=3,
    ).z  # fmt: skip
    for k, moment in ((2, wanted[1] / wanted[0]), (4, wanted[2] / wanted[0])):
        powers = z[:, 0] ** k
        assert abs(powers.mean() - moment) < 4.5 * powers.std() / math.sqrt(20000)


def test_a_proposal_outside_the_support_is_not_taken():
    def log_prob(z):  # uniform on [0, 1]: NaN, or -inf, elsewhere
        inside = (z > 0) & (z < 1)
        return torch.where(inside, 0 * z, torch.where(z < 0, torch.nan, -torch.inf)).sum(1)

    z = hmc(log_prob, torch.full((5000, 1), 0.5), seed=0, steps=30, step_size=0.5, leapfrog_steps=1)
    assert ((z.z > 0) & (z.z < 1)).all()
    assert abs(z.z.mean() - 0.5) < 4.5 * math.sqrt(1 / 12 / 5000)
    assert abs(z.z.var() - 1 / 12) < 4.5 / math.sqrt(180 * 5000)
    assert 0.2 < z.accepted.mean() < 0.95


def test_small_leapfrog_steps_conserve_energy():
    z = torch.randn(500, 3, dtype=torch.float64)
    assert hmc(lambda z: -(z**2).sum(1) / 2, z, seed=0, steps=10, step_size=0.01).accepted.mean() > 0.999


def test_unadjusted_langevin_has_the_variance_of_its_step_size():
    z = torch.zeros(40000, 1, dtype=torch.float64)
    for step_size in (0.3, 1.0):
        steps = int(40 / step_size**2)
        z = langevin(lambda z: -(z**2).sum(1) / 2, z, seed=0, steps=steps, step_size=step_size)
        variance = 1 / (1 - step_size**2 / 4)
        assert abs(z.var() - variance) < 4.5 * variance * math.sqrt(2 / 40000)
        assert abs(z.mean()) < 4.5 * math.sqrt(variance / 40000)


def test_chains_are_functions_of_their_seed_and_leave_their_start_alone():
    z = torch.randn(6, 3)
    before, target = z.clone(), lambda z: -(z**2).sum(1) / 2
    for run in (
        lambda seed: hmc(target, z, seed=seed, steps=3, step_size=0.5).z,
        lambda seed: langevin(target, z, seed=seed, steps=3, step_size=0.5),
    ):
        a = run(1)
        torch.manual_seed(5)
        assert torch.equal(a, run(1))
        assert not torch.equal(a, run(2))
        assert torch.equal(z, before)
        assert not a.requires_grad


def test_chains_on_log_joint_sample_the_posterior_of_a_linear_gaussian_model():
    model, x, _, mean, covariance = linear_gaussian(orthogonal=False)
    repeated = x[:4].repeat_interleave(2000, 0)
    start = torch.zeros(8000, 2, dtype=torch.float64)
    scale = covariance.diagonal().sqrt().expand_as(start)
    z = hmc(log_joint(model, repeated), start, seed=0, steps=40, step_size=0.3, leapfrog_steps=6, scale=scale).z
    for i in range(4):
        moments_match(z[2000 * i : 2000 * (i + 1)], mean[i], covariance)


def test_hmc_loss_teaches_the_encoder_the_bound_and_the_decoder_the_posterior():
    torch.manual_seed(2)
    config = VAEConfig(encoder=(8,), decoder=(8,), latent=2, likelihood="gaussian", refinement="hmc")
    model, x = VAE(config, (1, 3, 4)).double(), torch.randn(5, 1, 3, 4, dtype=torch.float64)
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = model.loss(x, seed=4)
    got = torch.autograd.grad(loss, parameters)
    terms = model.elbo(x, seed=4)
    assert loss.item() == pytest.approx(-terms.bound.mean().item(), rel=1e-12)
    of_bound = torch.autograd.grad(-terms.bound.mean(), parameters)
    q = model.posterior(x)
    std = torch.exp(q.logvar / 2).detach()
    start = q.mu.detach() + std * normal((5, 2), 4, dtype=torch.float64)
    z = hmc(log_joint(model, x), start, seed=4, steps=5, step_size=0.1, leapfrog_steps=5, scale=std).z
    of_chain = torch.autograd.grad(-model.log_likelihood(x, z).mean(), parameters, allow_unused=True)
    for name, a, b, c in zip(names, got, of_bound, of_chain, strict=True):
        torch.testing.assert_close(a, b if name.startswith("encoder.") else c, rtol=1e-9, atol=1e-12, msg=name)
    assert (z - start).abs().max() > 0.1
    assert all(p.requires_grad for p in parameters)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"steps": 0}, ValueError, "steps: expected at least 1, got 0"),
        ({"leapfrog_steps": 0}, ValueError, "leapfrog_steps: expected at least 1, got 0"),
        ({"steps": 1.0}, TypeError, "steps: expected an int, got float"),
        ({"step_size": 0.0}, ValueError, "step_size: expected a finite number > 0, got 0.0"),
        ({"step_size": math.nan}, ValueError, "step_size: expected a finite number > 0, got nan"),
        ({"step_size": math.inf}, ValueError, "step_size: expected a finite number > 0, got inf"),
        ({"scale": torch.ones(3)}, ValueError, r"scale: expected the shape \(4, 3\) of z, got \(3,\)"),
        ({"z": torch.zeros(4)}, ValueError, r"z: expected \[N, D\], a chain a row, got the shape \(4,\)"),
    ],
)
def test_bad_arguments_of_a_chain_are_named(options, kind, message):
    options = {"z": torch.zeros(4, 3), "steps": 2, "step_size": 0.1} | options
    for run in (hmc, langevin):
        if run is hmc or "leapfrog_steps" not in options:
            with pytest.raises(kind, match=message):
                run(lambda z: -z.square().sum(1), seed=0, **options)


def test_bad_counts_of_variational_inference_are_named():
    model, x, *_ = linear_gaussian(orthogonal=True)
    with pytest.raises(ValueError, match="steps: expected at least 0, got -1"):
        svi(model, x, seed=0, steps=-1)
    with pytest.raises(ValueError, match="samples: expected at least 1, got 0"):
        amortization_gap(model, x, seed=0, steps=1, samples=0)
    for options in ({"k": 0}, {"k": 1, "batch": 0}):
        with pytest.raises(ValueError, match=": expected at least 1, got 0"):
            model.nll(x, seed=0, **options)
