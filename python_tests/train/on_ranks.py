"""What each rank of a torchrun sees, as a script: `torchrun ... on_ranks.py FOLDER` writes FOLDER/rank-<r>.json."""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from dgmkern.data import load
from dgmkern.models.ddpm import DDPMConfig
from dgmkern.models.gan import GANConfig
from dgmkern.models.vae import VAEConfig
from dgmkern.train import (
    NonFiniteLossError,
    PeerError,
    Ranks,
    RunConfig,
    RunFolder,
    TrainConfig,
    Trainer,
    process_group,
)
from dgmkern.train import trainer as train_module
from dgmkern.train.checkpoint import tensors_digest
from dgmkern.train.tensorboard import TensorBoardLog

_SMALL = {"encoder": (16,), "decoder": (16,), "latent": 4, "refinement_steps": 2}
_UNET = {"channels": 8, "head_dim": 16}
MODELS = {
    "hybrid": DDPMConfig(**_UNET, timesteps=20, objective="hybrid", variance="learned_range", classes=10, dropout=0.2),
    "importance-sampled t": DDPMConfig(**_UNET, timesteps=3, step_sampling="loss-second-moment"),
    "semi-amortized": VAEConfig(**_SMALL, refinement="semi_amortized"),
    "hmc": VAEConfig(**_SMALL, refinement="hmc", refinement_size=1.5),  # so large that proposals are refused
    "free bits": VAEConfig(**_SMALL, free_bits=0.05),
    "packed": GANConfig(packing=2, hidden=16, latent=4),
    "wgan-gp": GANConfig(kind="wasserstein", gradient_penalty=10.0, hidden=16, latent=4),
    "spectral": GANConfig(kind="hinge", spectral_norm=True, network="conv", channels=8, latent=4),
}
STEPS = 8


def name_of(config: DDPMConfig | VAEConfig | GANConfig) -> str:
    return type(config).__name__.removesuffix("Config").lower()


def trainer(model: str, **more: bool) -> Trainer:
    config = MODELS[model]
    train = TrainConfig(steps=STEPS, batch_size=16, warmup=2, channels_last=True, **more)
    return Trainer(RunConfig(name_of(config), config, "digits", (1, 8, 8), train), load("digits"))


def trained(model: str) -> dict:
    """Records and digests of the final state of a run of `STEPS` steps."""
    run = trainer(model)
    records = [run.train_step() for _ in range(STEPS)]
    state = [run.model.state_dict(), run.ema.module.state_dict()]
    for optimizer in run.optimizers.values():
        for i, values in enumerate(optimizer.state.values()):
            state.append({f"{i}.{name}": value for name, value in values.items()})
    contiguous = [{name: value.contiguous() for name, value in tensors.items()} for tensors in state]
    return {"records": records, "digests": [tensors_digest(tensors) for tensors in contiguous]}


def nan_on_the_last_rank(ranks: Ranks, where: str) -> str:
    """The error of a run whose loss or gradient is NaN on the last rank, in its second step."""
    run = trainer("hybrid")
    sound = run.model.loss

    def loss(x, *, step, **how):
        value = sound(x, step=step, **how)
        if step == 1 and ranks.rank == ranks.ranks - 1:
            if where == "loss":
                return value * float("nan")
            value.register_hook(lambda grad: grad * float("nan"))
        return value

    run.model.loss = loss
    try:
        run.train_step()
        run.train_step()
    except NonFiniteLossError as error:
        return str(error)
    return "no error"


def stopped_by_a_signal_to_the_last_rank(ranks: Ranks, folder: Path) -> list[int]:
    """Signal and step that end a run whose last rank gets SIGTERM in the third step; logs for TensorBoard opened."""
    run, folder, boards = trainer("hybrid", tensorboard=True), RunFolder(folder), []

    class Board(TensorBoardLog):
        def __init__(self, *place, **how):
            boards.append(place)
            super().__init__(*place, **how)

    train_module.TensorBoardLog = Board
    ranks.on_first(lambda: folder.create(run.config))
    sound = run.train_step

    def train_step():
        if run.step == 2 and ranks.rank == ranks.ranks - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return sound()

    run.train_step = train_step
    return [int(run.fit(folder, progress=False) or 0), run.step, len(boards)]


def gathered(ranks: Ranks) -> list[list[float]]:
    """Rows 0 ... 3 gathered, and the gradient of their squared mean by this rank's rows."""
    rows = ranks.of(torch.arange(4, dtype=torch.float64)).clone().requires_grad_()
    whole = ranks.gather(rows)
    (gradient,) = torch.autograd.grad(whole.mean().square(), rows)
    return [whole.tolist(), gradient.tolist()]


def failing_on_first(ranks: Ranks) -> str:
    def fail():
        raise OSError("disk full")

    try:
        ranks.on_first(fail)
    except (OSError, PeerError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def threads_of_gloo() -> list[str]:
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]
    return [name for name in names if "gloo" in name]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with process_group() as ranks:
        seen = {
            "trained": {model: trained(model) for model in MODELS},
            "nan": [nan_on_the_last_rank(ranks, where) for where in ("loss", "gradient")],
            "stopped": stopped_by_a_signal_to_the_last_rank(ranks, folder / "run"),
            "gathered": gathered(ranks),
            "failing": failing_on_first(ranks),
            "threads": threads_of_gloo(),
        }
    seen["threads left"] = threads_of_gloo()
    (folder / f"rank-{ranks.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
