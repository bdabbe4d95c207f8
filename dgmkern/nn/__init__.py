"""Modules that the models share."""

from .dropout import Dropout, Masks
from .group_norm_silu import GroupNormSiLU
from .loss_second_moment import LossSecondMoment
from .time_embedding import TimeEmbedding, sinusoidal_embedding
from .unet import UNet, check_labels, check_unet
from .upsample import UpsampleConv2d

__all__ = [
    "Dropout",
    "GroupNormSiLU",
    "LossSecondMoment",
    "Masks",
    "TimeEmbedding",
    "UNet",
    "UpsampleConv2d",
    "check_labels",
    "check_unet",
    "sinusoidal_embedding",
]
