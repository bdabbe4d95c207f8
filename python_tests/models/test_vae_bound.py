"""The bounds of a VAE: in a linear Gaussian model the likelihood and the posterior are known."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from usual_vae import MLP, LinearGaussian, images, linear_gaussian, log_likelihood, make, posterior

from dgmkern import normal

pytestmark = pytest.mark.usefixtures("one_thread")


def with_exact_encoder() -> LinearGaussian:
    known = linear_gaussian(orthogonal=True)
    loadings, sigma2 = known.model.decoder.layers[0].weight.detach(), known.model.logvar.exp().item()
    with torch.no_grad():
        weights = known.covariance @ loadings.T / sigma2
        known.model.encoder[1].weight.copy_(torch.cat([weights, torch.zeros_like(weights)]))
        known.model.encoder[1].bias.copy_(torch.cat([torch.zeros(2), known.covariance.diagonal().log()]))
    return known


def test_with_the_exact_posterior_every_weight_is_the_likelihood():
    model, x, log_p, _, _ = with_exact_encoder()
    torch.testing.assert_close(model.log_weights(x, 4, seed=1), log_p[:, None].expand(-1, 4), rtol=0, atol=1e-12)
    torch.testing.assert_close(-model.nll(x, 7, seed=1), log_p, rtol=0, atol=1e-12)
    bounds = torch.stack([model.elbo(x, seed=2, offset=i << 40).bound.detach() for i in range(400)])
    error = bounds.std(0) / 20
    assert ((bounds.mean(0) - log_p).abs() < 5 * error).all()
    q = model.posterior(x)
    torch.nn.init.zeros_(model.encoder[1].weight)
    torch.testing.assert_close(model.log_weights(x, 4, seed=1, q=q), log_p[:, None].expand(-1, 4), rtol=0, atol=1e-12)


def test_bound_rises_with_samples_to_the_log_likelihood():
    model, x, log_p, _, _ = with_exact_encoder()
    with torch.no_grad():
        model.encoder[1].bias += torch.tensor([0.4, -0.4, 0.6, 0.4])
        gaps = []
        for k in (1, 2, 5, 20, 100):
            model.config = dataclasses.replace(model.config, samples=k)
            loss = np.mean([model.loss(x, seed=seed).item() for seed in range(200 // k + 20)])
            gaps.append(log_p.mean().item() + loss)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.5
    assert -0.02 < gaps[-1] < 0.05
    assert (log_p + model.nll(x, 4000, seed=0)).abs().max() < 0.05


def test_samples_of_nll_do_not_depend_on_the_batch():
    model, x = make(MLP).double(), images(9).double()
    every = model.nll(x, 120, seed=4)
    assert every.dtype == torch.float64
    torch.testing.assert_close(model.nll(x, 120, seed=4, batch=2), every, rtol=1e-12, atol=0)
    z = posterior(model, x)
    chunks = [
        z[0][:, None] + torch.exp(z[1] / 2)[:, None] * normal((9, n, 3), 4, offset=b << 40, dtype=torch.float64)
        for b, n in ((0, 50), (50, 50), (100, 20))
    ]
    log_weights = []
    for sample in torch.cat(chunks, 1).unbind(1):
        log_ratio = Normal(0.0, 1.0).log_prob(sample) - Normal(z[0], torch.exp(z[1] / 2)).log_prob(sample)
        log_weights.append(log_likelihood(model, x, sample) + log_ratio.sum(1))
    want = math.log(120) - torch.stack(log_weights).logsumexp(0)
    torch.testing.assert_close(every, want.detach(), rtol=1e-12, atol=0)
