"""Settings that suit a model and a data set on two CPU cores: the defaults of the command line."""

from typing import Any

from ..data import NAMES as DATA_NAMES
from ..models import model_classes
from .config import TrainConfig

# (model settings, training settings); what is not named keeps its dataclass default
_MNIST = (
    {"channels": 16, "multipliers": (1, 2, 4)},
    {"steps": 8000, "batch_size": 64, "ema_decay": 0.999, "channels_last": True},
)
_GAN = {"network": "conv", "gradient_penalty": 1.0, "penalty_target": 0.0}
_GAN_MNIST = (
    _GAN | {"channels": 32, "multipliers": (1, 2, 4)},
    {"steps": 10000, "batch_size": 64, "lr": 1e-3, "betas": (0.5, 0.99), "ema_decay": 0.999, "channels_last": True},
)
_VAE_MNIST = ({"encoder": (400,), "decoder": (400,)}, {"steps": 10000})
_DDPM_CIFAR10 = (
    {"channels": 64, "multipliers": (1, 2, 2)},
    {"steps": 20000, "batch_size": 64, "lr": 5e-4, "ema_decay": 0.999, "channels_last": True},
)
_CONV = {"network": "conv", "encoder": (64, 128, 256), "decoder": (256, 128, 64)}
_VAE_CIFAR10 = (
    _CONV | {"latent": 128, "likelihood": "discretized_gaussian"},
    {"steps": 20000, "batch_size": 64, "channels_last": True},
)
_GAN_CIFAR10 = (
    _GAN | {"channels": 64, "multipliers": (1, 2, 4), "latent": 128},
    {"steps": 20000, "batch_size": 64, "lr": 5e-4, "betas": (0.5, 0.99), "ema_decay": 0.999, "channels_last": True},
)
_VAE_BINARIZED = (
    {"network": "conv", "encoder": (32, 64, 64, 128), "decoder": (128, 128, 64, 32), "latent": 40},
    # a gradient is a sum over 784 pixels: the usual bound of 1 would clip every step
    {"steps": 14000, "batch_size": 100, "lr": 3e-3, "betas": (0.9, 0.99), "clip_grad": 1000.0, "ema_decay": 0.999}
    | {"channels_last": True, "checkpoint_every": 1000},
)
_PRESETS: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]] = {
    # steps of 63 ms (median) on two cores of an EPYC Zen 5: some 95 s when nothing else runs
    ("ddpm", "digits"): ({"channels": 32}, {"steps": 1500, "lr": 2e-3, "channels_last": True}),
    ("ddpm", "mnist"): _MNIST,
    ("ddpm", "fashion-mnist"): _MNIST,
    ("ddpm", "binarized-mnist"): _MNIST,
    ("vae", "digits"): ({"encoder": (128,), "decoder": (128,), "latent": 8}, {"steps": 3000, "lr": 2e-3}),
    ("vae", "mnist"): _VAE_MNIST,
    ("vae", "fashion-mnist"): _VAE_MNIST,
    ("vae", "binarized-mnist"): _VAE_BINARIZED,
    ("gan", "digits"): (_GAN | {"latent": 32}, {"steps": 1500, "batch_size": 64, "lr": 2e-3, "betas": (0.5, 0.99)}),
    ("gan", "mnist"): _GAN_MNIST,
    ("gan", "fashion-mnist"): _GAN_MNIST,
    ("gan", "binarized-mnist"): _GAN_MNIST,
    ("ddpm", "cifar10"): _DDPM_CIFAR10,
    ("ddpm", "cifar10-subset"): _DDPM_CIFAR10,
    ("vae", "cifar10"): _VAE_CIFAR10,
    ("vae", "cifar10-subset"): _VAE_CIFAR10,
    ("gan", "cifar10"): _GAN_CIFAR10,
    ("gan", "cifar10-subset"): _GAN_CIFAR10,
}


def preset(model: str, data: str) -> tuple[Any, TrainConfig]:
    """(model config, training config) for `model` on `data`; those of cifar10 for a folder of pictures."""
    data = data if data in DATA_NAMES else "cifar10"
    model_settings, train_settings = _PRESETS.get((model, data), ({}, {}))
    _, config_class = model_classes(model)
    return config_class(**model_settings), TrainConfig(**train_settings)
