"""One trainer for every model: configs, checkpoints, logs and pictures of a run."""

from .checkpoint import Checkpoint, CheckpointError, latest_checkpoint, load_checkpoint, save_checkpoint
from .config import ConfigError, RunConfig, TrainConfig, learning_rate
from .device import pick_device
from .distributed import PeerError, Ranks, process_group
from .figures import save_image_grid, save_loss_curve
from .log import losses_of, read_log
from .presets import preset
from .run import RunFolder, open_checkpoint, require_writable
from .sampling import draw_images
from .tensorboard import require_tensorboard
from .trainer import NonFiniteLossError, Trainer, load_model

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "NonFiniteLossError",
    "PeerError",
    "Ranks",
    "RunConfig",
    "RunFolder",
    "TrainConfig",
    "Trainer",
    "draw_images",
    "latest_checkpoint",
    "learning_rate",
    "load_checkpoint",
    "load_model",
    "losses_of",
    "open_checkpoint",
    "pick_device",
    "preset",
    "process_group",
    "read_log",
    "require_tensorboard",
    "require_writable",
    "save_checkpoint",
    "save_image_grid",
    "save_loss_curve",
]
