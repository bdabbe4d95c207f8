"""20 training steps of a tiny DDPM in fp64, as a script too: prints the losses, for a process with another backend."""

import json

import torch

from dgmkern.data import load, to_signed
from dgmkern.models.ddpm import DDPM, DDPMConfig

CONFIG = DDPMConfig(
    channels=16,
    head_dim=32,
    timesteps=4,  # 20 steps of 32 images fill the history of losses
    variance="learned_range",
    objective="hybrid",
    step_sampling="loss-second-moment",
    min_snr=5.0,
    classes=10,
)


def losses() -> list[float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DDPM(CONFIG, (1, 8, 8)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    digits, values = load("digits"), []
    for step in range(20):
        batch = slice(32 * step, 32 * (step + 1))
        loss = model.loss(to_signed(digits.images[batch]).double(), seed=step, labels=digits.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


if __name__ == "__main__":
    print(json.dumps(losses()))
