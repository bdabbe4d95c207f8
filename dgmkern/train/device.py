"""Where a run computes."""

import os

import torch

from .config import ConfigError, Device


def pick_device(name: Device) -> torch.device:
    """The device named "cpu" or "cuda"; "auto": a GPU if there is one. Under torchrun each rank of a host has its own.

    Raises ConfigError for "cuda" without one.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError("device: got cuda, but torch finds no GPU")
    if name == "cpu" or not there:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
