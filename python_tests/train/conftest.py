import pytest

from dgmkern.data import load
from dgmkern.models.ddpm import DDPMConfig
from dgmkern.models.gan import GANConfig
from dgmkern.train import RunConfig, TrainConfig


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


@pytest.fixture(scope="session")
def digits():
    return load("digits")


@pytest.fixture
def tiny():
    """RunConfig of a tiny DDPM on digits; keyword arguments go to TrainConfig."""

    def make(model: DDPMConfig | None = None, **train) -> RunConfig:
        model = model or DDPMConfig(channels=8, head_dim=16, timesteps=20)
        train = {"steps": 12, "batch_size": 8, "warmup": 2, "checkpoint_every": 4} | train
        return RunConfig("ddpm", model, "digits", (1, 8, 8), TrainConfig(**train))

    return make


@pytest.fixture
def tiny_gan():
    """RunConfig of a tiny WGAN-GP with two critic steps on digits; `model` may be another GANConfig."""

    def make(model: GANConfig | None = None, **train) -> RunConfig:
        critic = {"kind": "wasserstein", "gradient_penalty": 10.0, "discriminator_steps": 2}
        model = model or GANConfig(**critic, hidden=16, latent=4)
        train = {"steps": 12, "batch_size": 8, "warmup": 2, "checkpoint_every": 4, "betas": (0.5, 0.9)} | train
        return RunConfig("gan", model, "digits", (1, 8, 8), TrainConfig(**train))

    return make
