"""The training loop, for any model of `dgmkern.models`."""

import math
import time
from contextlib import nullcontext
from signal import Signals

import torch
from torch import Tensor, nn

from ..data import ImageDataset, batch_indices, to_signed
from ..models import Phase, model_classes, phases_of
from .checkpoint import Checkpoint, CheckpointError, save_checkpoint
from .config import ConfigError, RunConfig, learning_rate
from .device import pick_device
from .distributed import Ranks
from .ema import AveragedWeights
from .figures import save_image_grid
from .log import JSONLLog, is_loss
from .progress import progress_bar
from .run import RunFolder
from .sampling import draw_images
from .seeds import step_seed
from .signals import StopSignal
from .tensorboard import TensorBoardLog
from .update import Recorded, Update

_GRID = 64  # samples of a grid while training


class NonFiniteLossError(ArithmeticError):
    """The loss or the gradient of a phase is NaN or infinite.

    The weights are as before that phase, the checkpoints as before that step.
    """

    def __init__(self, step: int, seed: int, what: str) -> None:
        super().__init__(f"{what} at step {step} (batch seed {seed})")
        self.step = step
        self.seed = seed


class Trainer:
    """Trains the model of `config` on `dataset`; `train_step` is one step, `fit` is a whole run in a folder.

    All random numbers of a step are functions of (config.train.seed, step), so a run continued from a checkpoint is
    bit for bit the run that was never stopped (on the same machine with the same number of threads; on a GPU to
    rounding, as sums of cuDNN and of attention may change their order).

    In a process group of torch.distributed, every rank trains on its share of each batch, and all have the same weights
    after each step: to rounding those that one process gets. Rank 0 alone writes files. What a network draws from
    torch's generators is other numbers with other ranks; dgmkern's models draw nothing from them. Raises ConfigError
    for batches that the ranks do not divide, or that the model would refuse.
    """

    def __init__(self, config: RunConfig, dataset: ImageDataset) -> None:
        if config.image_shape != dataset.image_shape:
            raise ValueError(f"dataset: got images {dataset.image_shape}, the config is for {config.image_shape}")
        self.ranks = Ranks.current()
        if config.train.batch_size % self.ranks.ranks:
            raise ConfigError(f"batch_size: got {config.train.batch_size}, want a multiple of {self.ranks.ranks} ranks")
        self.config = config
        self.dataset = dataset
        self.step = 0
        model_class, _ = model_classes(config.model)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.train.seed)  # initial weights, on the CPU
            model = model_class(config.model_config, config.image_shape)
        _check_batches(model, dataset, config.train.batch_size // self.ranks.ranks)
        self.memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
        self.device = pick_device(config.train.device)
        self.model: nn.Module = model.to(self.device, memory_format=self.memory_format)
        self.ranks.broadcast(self.model.state_dict().values())
        self.ema = AveragedWeights(self.model, config.train.ema_decay)
        # by player, and by parameter
        self.optimizers = {phase.module: self._optimizer(phase.module) for phase in phases_of(self.model, 0)}
        self._optimizer_of: dict[nn.Parameter, torch.optim.AdamW] = {}
        for player, optimizer in self.optimizers.items():
            for name, parameter in player.named_parameters():
                if parameter in self._optimizer_of:
                    raise ValueError(f"phases: got {name} in two players, want players without common parameters")
                self._optimizer_of[parameter] = optimizer
        self._updates: dict[str, Update | Recorded] = {}  # by phase
        if config.train.compile:
            for network in self.model.networks():
                network.compile(dynamic=False)

    def _optimizer(self, player: nn.Module) -> torch.optim.AdamW:
        train = self.config.train
        how = {"lr": train.lr, "betas": tuple(map(float, train.betas)), "weight_decay": train.weight_decay}
        return torch.optim.AdamW(player.parameters(), **how, fused=True)

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """This rank's share of batch `number`: images float32 [N, C, H, W] in [-1, 1] and labels int64 [N].

        Phase i of step s takes batch P s + i, where P is the number of phases of that step.
        """
        train = self.config.train
        indices = batch_indices(len(self.dataset), train.batch_size, seed=train.seed, step=number)
        indices = self.ranks.of(torch.from_numpy(indices))
        images, labels = (part[indices].to(self.device) for part in (self.dataset.images, self.dataset.labels))
        return to_signed(images).contiguous(memory_format=self.memory_format), labels

    def train_step(self) -> dict[str, float]:
        """One optimizer step of every phase; returns the record for the log: of each player loss and gradient norm.

        Seeds torch's generators with the phase's seed plus the rank, so that a model may draw from them.
        Figures are those of the whole batch, and means over the phases of one name. Raises NonFiniteLossError, the
        player's weights being as before.
        """
        lr = learning_rate(self.config.train, self.step)
        self.model.train()
        figures: dict[str, list[float]] = {}
        phases = phases_of(self.model, self.step)
        for i, phase in enumerate(phases):
            loss, norm = self._play(phase, i, len(phases), lr)
            figures.setdefault(f"{phase.prefix}loss", []).append(loss)
            figures.setdefault(f"{phase.prefix}grad_norm", []).append(norm)
        self.ema.update()
        self.step += 1
        means = {name: sum(values) / len(values) for name, values in figures.items()}
        return {"step": self.step, **means, "lr": lr}

    def _play(self, phase: Phase, i: int, phases: int, lr: float) -> tuple[float, float]:
        """The optimizer step of phase `i` of `phases`; its loss, and the norm of its gradient before clipping."""
        seed = step_seed(self.config.train.seed, self.step, i)
        torch.default_generator.manual_seed(seed + self.ranks.rank)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed + self.ranks.rank)
        if phase.name not in self._updates:
            self._updates[phase.name] = self._update(phase)
        images, labels = self.batch(self.step * phases + i)
        loss, norm = self._updates[phase.name](images, labels, seed, self.step, lr).tolist()
        for what, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                raise NonFiniteLossError(self.step, seed, f"{phase.prefix.replace('_', ' ')}{what} is {value}")
        return loss, norm

    def _update(self, phase: Phase) -> Update | Recorded:
        train = self.config.train
        how = {"precision": train.precision, "clip_grad": train.clip_grad, "ranks": self.ranks}
        update = Update(phase, self.optimizers[phase.module], **how)
        graphs = train.cuda_graphs and self.device.type == "cuda" and self.ranks.ranks == 1
        return Recorded(update) if graphs else update

    def fit(self, run: RunFolder, *, progress: bool = True) -> Signals | None:
        """Train up to `config.train.steps`, logging and writing checkpoints into `run`.

        SIGINT or SIGTERM, of any rank, ends it after the step at hand, with a checkpoint; the signal is returned (None:
        finished).
        """
        train = self.config.train
        first = self.ranks.rank == 0
        saved = self.step
        if self.step == 0:
            self.save(run)  # whatever happens, there is something to resume
        with (
            torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []),
            StopSignal() as stop,
            JSONLLog(run.log, step=self.step) if first else nullcontext() as log,
            TensorBoardLog(run.tensorboard, step=self.step) if first and train.tensorboard else nullcontext() as board,
            progress_bar(
                total=train.steps * train.batch_size,
                initial=self.step * train.batch_size,
                desc=self.config.title,
                unit="img",
                unit_scale=True,
                disable=not (progress and first),
            ) as bar,
        ):
            while self.step < train.steps and not self.ranks.largest(stop.received or 0):
                start = time.perf_counter()
                record = self.train_step()
                record["seconds"] = round(time.perf_counter() - start, 6)
                if log is not None:
                    log.write(record)
                if board is not None:
                    board.write(record)
                losses = {name: f"{value:.4f}" for name, value in record.items() if is_loss(name)}
                bar.set_postfix(**losses, step=f"{self.step}/{train.steps}", refresh=False)
                bar.update(train.batch_size)
                if self.step % train.checkpoint_every == 0:
                    if board is not None:
                        board.flush()  # a resumed run writes nothing that is older than its checkpoint
                    self.save(run)
                    saved = self.step
                if train.sample_every and self.step % train.sample_every == 0:
                    self.ranks.on_first(lambda: self._save_samples(run, board))
            if saved != self.step:
                self.save(run)
            received = self.ranks.largest(stop.received or 0)
        return Signals(received) if received else None

    def save(self, run: RunFolder) -> None:
        """Write a checkpoint of the present state, on rank 0; the others wait."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": t for name, t in self.ema.module.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            if parameter in self._optimizer_of:
                for key, value in self._optimizer_of[parameter].state.get(parameter, {}).items():
                    tensors[f"optimizer.{name}.{key}"] = value
        checkpoint, keep_last = Checkpoint(self.config, self.step, tensors), self.config.train.keep_last
        self.ranks.on_first(lambda: save_checkpoint(run.checkpoints, checkpoint, keep_last=keep_last))

    def _save_samples(self, run: RunFolder, board: TensorBoardLog | None) -> None:
        """Write a grid of samples of the averaged weights; the same noise at every step."""
        train, path = self.config.train, run.samples_at(self.step)
        path.parent.mkdir(exist_ok=True)
        images = draw_images(self.ema.module, _GRID, seed=train.seed, precision=train.precision, progress=False)
        save_image_grid(images, path)
        if board is not None:
            board.write_picture("samples", path, self.step)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`. Raises CheckpointError if it is of another model or config."""
        self.config.check_resumes(checkpoint.config)
        load_weights(self.model, checkpoint.part("model"))
        load_weights(self.ema.module, checkpoint.part("ema"))
        self.ema.updates = checkpoint.step
        self.step = checkpoint.step
        self._updates.clear()  # a recording writes to the state that was
        for optimizer in self.optimizers.values():
            optimizer.state.clear()
        saved = checkpoint.part("optimizer")
        for name, parameter in self.model.named_parameters():
            keys = [key for key in saved if key.rpartition(".")[0] == name]
            if keys:
                self._optimizer_of[parameter].state[parameter] = {
                    # the strides of the parameter, so that the step is computed in the same order as before
                    key.rpartition(".")[2]: torch.empty_like(parameter).copy_(saved[key])
                    if saved[key].shape == parameter.shape
                    else saved[key].to(parameter.device, copy=True)
                    for key in keys
                }


def _check_batches(model: nn.Module, dataset: ImageDataset, batch_size: int) -> None:
    """Raise ConfigError, before any work, for batches that `model` would refuse when they come."""
    classes, packing = (getattr(model.config, name, default) for name, default in (("classes", 0), ("packing", 1)))
    if classes and (most := int(dataset.labels.max())) >= classes:
        raise ConfigError(f"classes: got {classes}, but {dataset.name} has labels up to {most}; want more than that")
    if batch_size % packing:
        raise ConfigError(f"packing: got {packing}, want a divisor of the {batch_size} images of a batch on each rank")


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """`load_state_dict`, with a CheckpointError that names the first tensor that does not fit."""
    own = model.state_dict()
    for name in sorted(set(own) | set(weights)):
        if name not in weights or name not in own:
            raise CheckpointError(f"checkpoint of another model: {name} is in only one of the two")
        if own[name].shape != weights[name].shape:
            shapes = f"{list(weights[name].shape)}, the model has {list(own[name].shape)}"
            raise CheckpointError(f"checkpoint of another model: {name} is {shapes}")
    model.load_state_dict(weights)


def load_model(checkpoint: Checkpoint, *, averaged: bool = True) -> nn.Module:
    """The model of a checkpoint, in eval mode, with its averaged weights (or those of the last step)."""
    model_class, _ = model_classes(checkpoint.config.model)
    model = model_class(checkpoint.config.model_config, checkpoint.config.image_shape)
    load_weights(model, checkpoint.part("ema" if averaged else "model"))
    return model.eval()
