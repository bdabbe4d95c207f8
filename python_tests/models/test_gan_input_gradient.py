"""A discriminator's gradient by its input, in forward ops, against autograd and its double backward."""

import copy
from dataclasses import replace

import pytest
import torch

import dgmkern
from dgmkern.models.gan import GAN, GANConfig

BASE = GANConfig(kind="wasserstein", gradient_penalty=10.0, hidden=16, latent=4, channels=8)
CONFIGS = {
    "mlp": BASE,
    "one hidden layer": replace(BASE, layers=1),
    "four hidden layers": replace(BASE, layers=4),
    "conv": replace(BASE, network="conv"),
    "deep conv": replace(BASE, network="conv", multipliers=(1, 2, 2)),
    "packed": replace(BASE, packing=4),
    "packed conv": replace(BASE, packing=2, network="conv"),
    "spectral norm": replace(BASE, spectral_norm=True),
    "spectral norm, conv": replace(BASE, spectral_norm=True, network="conv"),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())

pytestmark = pytest.mark.usefixtures("one_thread")


def by_autograd(discriminator, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)[0]


def parameter_gradients(loss, discriminator):
    """By name; 0 where double backward finds no way."""
    parameters = dict(discriminator.named_parameters())
    how = {"materialize_grads": True, "allow_unused": True, "retain_graph": True}
    found = torch.autograd.grad(loss, tuple(parameters.values()), **how)
    return dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("shape", [(2, 8, 6), (1, 7, 7), (3, 5, 2), (1, 1, 1)])
@every_config
def test_it_is_that_of_autograd_at_every_sample(config, shape):
    discriminator = GAN(config, shape).double().discriminator.eval()
    x = torch.randn(5, config.packing * shape[0], *shape[1:], dtype=torch.float64)
    got, want = discriminator.input_gradient(x), by_autograd(discriminator, x)
    assert got.shape == x.shape
    assert got.dtype == x.dtype
    assert (got - want).abs().max() < 1e-13
    assert (want[0] - want[1]).abs().max() > 1e-6  # slopes differ from sample to sample


@pytest.mark.parametrize("target", [0.0, 1.0])
@every_config
def test_the_discriminators_step_is_that_with_double_backward_in_fp64(config, target):
    """Loss, all parameter gradients, and, under spectral norm, vectors of the power iteration; in training mode."""
    model = GAN(replace(config, penalty_target=target), (2, 7, 6)).double()
    twin = copy.deepcopy(model)
    x = torch.randn(8, 2, 7, 6, dtype=torch.float64).tanh()
    ours = model.discriminator_loss(x, seed=3)
    with torch.no_grad():
        real, fake = twin._packed(x), twin._packed(twin.generate(8, seed=3))
    logits_real, logits_fake = twin.discriminator(torch.cat([real, fake])).chunk(2)
    penalty = dgmkern.gradient_penalty(twin.discriminator, real, fake, seed=3, offset=1 << 40, target=target)
    plain = logits_fake.mean() - logits_real.mean() + 10 * penalty.mean()
    assert abs(ours - plain).item() < 1e-12
    got, want = (parameter_gradients(*pair) for pair in ((ours, model.discriminator), (plain, twin.discriminator)))
    for name in want:
        assert (got[name] - want[name]).abs().max() < 1e-12, name
    by_penalty = parameter_gradients(penalty.mean(), twin.discriminator)
    assert sum(gradient.abs().max() > 1e-6 for gradient in by_penalty.values()) == sum(
        "weight" in name for name in want
    )
    for name, buffer in twin.discriminator.named_buffers():
        assert torch.equal(model.discriminator.get_buffer(name), buffer), name


def test_there_is_no_gradient_by_samples_or_biases_as_the_slopes_are_constant():
    discriminator = GAN(BASE, (1, 8, 8)).discriminator
    x = torch.randn(4, 1, 8, 8, requires_grad=True)
    biases = [layer.bias for layer in discriminator if isinstance(layer, torch.nn.Linear)]
    loss = dgmkern.gradient_norm_penalty(discriminator.input_gradient(x)).sum()
    assert torch.autograd.grad(loss, [x, *biases], allow_unused=True) == (None,) * 4


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_channels_last_and_split_batches_change_nothing(network):
    discriminator = GAN(replace(BASE, network=network), (3, 9, 8)).discriminator
    x = torch.randn(6, 3, 9, 8)
    want = discriminator.input_gradient(x)
    discriminator.to(memory_format=torch.channels_last)
    got = torch.cat([discriminator.input_gradient(x[i::2].to(memory_format=torch.channels_last)) for i in range(2)])
    assert (got - torch.cat([want[::2], want[1::2]])).abs().max() < 1e-6


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_under_autocast_the_step_is_about_as_exact_as_with_double_backward(network):
    """Gradients of the penalty in bf16, against fp64."""
    discriminator = GAN(replace(BASE, network=network, hidden=64), (1, 8, 8)).discriminator
    real, fake = torch.randn(2, 32, 1, 8, 8)
    exact = copy.deepcopy(discriminator).double()
    penalty = dgmkern.gradient_penalty(exact, real.double(), fake.double(), seed=3).mean()
    want = parameter_gradients(penalty, exact)
    with torch.autocast("cpu", torch.bfloat16):
        between = dgmkern.interpolate(real, fake, seed=3)
        forward = dgmkern.gradient_norm_penalty(discriminator.input_gradient(between)).mean()
        double_backward = dgmkern.gradient_penalty(discriminator, real, fake, seed=3).mean()
    assert forward.dtype == torch.float32

    def error(loss) -> float:
        got = parameter_gradients(loss, discriminator)
        return sum((got[name] - want[name]).square().sum().item() for name in want) ** 0.5

    norm = sum(gradient.square().sum().item() for gradient in want.values()) ** 0.5
    assert error(forward) < 1.5 * error(double_backward)
    assert error(double_backward) < 0.05 * norm
    assert abs(forward - penalty).item() < 0.01 * penalty.item()


def test_a_critics_step_compiles_whole():
    model = GAN(BASE, (1, 8, 8))
    x = torch.randn(16, 1, 8, 8)
    want = model.discriminator_loss(x, seed=5)
    got = torch.compile(model.discriminator_loss, fullgraph=True)(x, seed=5)
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    gradients = [parameter_gradients(loss, model.discriminator) for loss in (got, want)]
    for name, wanted in gradients[1].items():
        assert (gradients[0][name] - wanted).abs().max() < 1e-5, name
