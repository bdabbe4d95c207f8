"""Reference models, one file a paper: network, loss and sampler, read top to bottom.

A model class M with its config dataclass C is registered in `MODELS` and provides, besides being an `nn.Module`:

- `M(config: C, image_shape)`;
- `loss(x, *, seed, step=0, labels=None, share=WHOLE) -> scalar`: `x` float32 [N, C, H, W] in [-1, 1], `labels` int64
  [N] or None; every random number is a function of `seed` and of the sample's number in the whole batch, of which `x`
  is a `share`; `step` (0-based) is the training step, for what is annealed;
- or, for a game of several players, `phases(step) -> tuple[Phase, ...]`: the optimizer steps of training step `step` in
  their order, each with such a loss. Those of step 0 name every player;
- `sample(n, *, seed, first=0, progress=iter) -> [n, C, H, W]` in [-1, 1]: samples first ... first + n - 1 of the stream
  that `seed` names; `progress` wraps the iterable of its steps (tqdm, for example).

The trainer and the command line know models only through this.
"""

from importlib import import_module

from torch import nn

from .phase import Phase, phases_of
from .share import WHOLE, Share

# name: (module, model class, config class); imported when asked for
MODELS = {
    "vae": ("dgmkern.models.vae", "VAE", "VAEConfig"),
    "gan": ("dgmkern.models.gan", "GAN", "GANConfig"),
    "ddpm": ("dgmkern.models.ddpm", "DDPM", "DDPMConfig"),
}


def model_classes(name: str) -> tuple[type[nn.Module], type]:
    """The model class and its config dataclass; ValueError with the known names if there is no such model."""
    if name not in MODELS:
        raise ValueError(f"model: unknown model {name!r}, want one of {', '.join(MODELS)}")
    module, model, config = MODELS[name]
    module = import_module(module)
    return getattr(module, model), getattr(module, config)


__all__ = ["MODELS", "WHOLE", "Phase", "Share", "model_classes", "phases_of"]
