"""The training loop, for any model of `dgmkern.models`."""

import math
import time
from signal import Signals

import torch
from torch import Tensor, nn

from ..data import ImageDataset, batch_indices, to_signed
from ..models import model_classes
from .checkpoint import Checkpoint, CheckpointError, save_checkpoint
from .config import RunConfig, learning_rate
from .ema import averaged_model
from .log import JSONLLog
from .progress import progress_bar
from .run import RunFolder
from .seeds import step_seed
from .signals import StopSignal


class NonFiniteLossError(ArithmeticError):
    """The loss or the gradient of a step is NaN or infinite. Weights and checkpoints are as before that step."""

    def __init__(self, step: int, seed: int, what: str) -> None:
        super().__init__(f"{what} at step {step} (batch seed {seed})")
        self.step = step
        self.seed = seed


class Trainer:
    """Trains the model of `config` on `dataset`; `train_step` is one step, `fit` is a whole run in a folder.

    All random numbers of a step are functions of (config.train.seed, step), so a run continued from a checkpoint is
    bit for bit the run that was never stopped (on the same machine with the same number of threads).
    """

    def __init__(self, config: RunConfig, dataset: ImageDataset) -> None:
        if config.image_shape != dataset.image_shape:
            raise ValueError(f"dataset: got images {dataset.image_shape}, the config is for {config.image_shape}")
        self.config = config
        self.dataset = dataset
        self.step = 0
        model_class, _ = model_classes(config.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)  # initial weights
            model = model_class(config.model_config, config.image_shape)
        self.memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
        self.model: nn.Module = model.to(memory_format=self.memory_format)
        self.ema = averaged_model(self.model, config.train.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.train.lr, weight_decay=config.train.weight_decay, fused=True
        )

    def batch(self, step: int) -> Tensor:
        """The images of step `step`, float32 [N, C, H, W] in [-1, 1]."""
        train = self.config.train
        indices = batch_indices(len(self.dataset), train.batch_size, seed=train.seed, step=step)
        return to_signed(self.dataset.images[torch.from_numpy(indices)]).contiguous(memory_format=self.memory_format)

    def train_step(self) -> dict[str, float]:
        """One optimizer step; returns its record for the log.

        Seeds torch's default generator with the step's seed, so that a model may draw from it (dropout, for example).
        Raises NonFiniteLossError before the weights change.
        """
        train = self.config.train
        seed = step_seed(train.seed, self.step)
        torch.default_generator.manual_seed(seed)
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=train.precision == "bf16"):
            loss = self.model.loss(self.batch(self.step), seed=seed)
        loss_value = loss.item()
        if not math.isfinite(loss_value):
            raise NonFiniteLossError(self.step, seed, f"loss is {loss_value}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), train.clip_grad).item()
        if not math.isfinite(norm):
            raise NonFiniteLossError(self.step, seed, f"gradient norm is {norm}")
        lr = learning_rate(train, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.ema.update_parameters(self.model)
        self.step += 1
        return {"step": self.step, "loss": loss_value, "grad_norm": norm, "lr": lr}

    def fit(self, run: RunFolder, *, progress: bool = True) -> Signals | None:
        """Train up to `config.train.steps`, logging and writing checkpoints into `run`.

        SIGINT or SIGTERM ends it after the step at hand, with a checkpoint; the signal is returned (None: finished).
        """
        train = self.config.train
        saved = self.step
        if self.step == 0:
            self.save(run)  # whatever happens, there is something to resume
        with (
            torch.random.fork_rng(devices=[]),
            StopSignal() as stop,
            JSONLLog(run.log, step=self.step) as log,
            progress_bar(
                total=train.steps * train.batch_size,
                initial=self.step * train.batch_size,
                desc=f"{self.config.model} on {self.config.data}",
                unit="img",
                unit_scale=True,
                disable=not progress,
            ) as bar,
        ):
            while self.step < train.steps and stop.received is None:
                start = time.perf_counter()
                record = self.train_step()
                record["seconds"] = round(time.perf_counter() - start, 6)
                log.write(record)
                bar.set_postfix(loss=f"{record['loss']:.4f}", step=f"{self.step}/{train.steps}", refresh=False)
                bar.update(train.batch_size)
                if self.step % train.checkpoint_every == 0:
                    self.save(run)
                    saved = self.step
            if saved != self.step:
                self.save(run)
        return stop.received

    def save(self, run: RunFolder) -> None:
        """Write a checkpoint of the present state."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": t for name, t in self.ema.module.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        save_checkpoint(
            run.checkpoints, Checkpoint(self.config, self.step, tensors), keep_last=self.config.train.keep_last
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`. Raises CheckpointError if it is of another model or config."""
        self.config.check_resumes(checkpoint.config)
        load_weights(self.model, checkpoint.part("model"))
        load_weights(self.ema.module, checkpoint.part("ema"))
        self.ema.n_averaged.fill_(checkpoint.step)
        self.step = checkpoint.step
        self.optimizer.state.clear()
        saved = checkpoint.part("optimizer")
        for name, parameter in self.model.named_parameters():
            keys = [key for key in saved if key.rpartition(".")[0] == name]
            if keys:
                self.optimizer.state[parameter] = {
                    # the strides of the parameter, so that the step is computed in the same order as before
                    key.rpartition(".")[2]: torch.empty_like(parameter).copy_(saved[key])
                    if saved[key].shape == parameter.shape
                    else saved[key].clone()
                    for key in keys
                }


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
