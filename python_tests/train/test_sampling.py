"""Images drawn from a trained model: which, of which class, and what does not fit."""

import pytest
import torch

from dgmkern.data import to_uint8
from dgmkern.models.ddpm import DDPM, DDPMConfig
from dgmkern.train import draw_images

SHAPE = (1, 8, 8)
TINY = DDPMConfig(channels=8, multipliers=(1, 2), head_dim=16, timesteps=6)


def make(classes: int) -> DDPM:
    """A network whose output is not the zero that it starts with."""
    torch.manual_seed(0)
    model = DDPM(DDPMConfig(**{**vars(TINY), "classes": classes}), SHAPE)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def sampled(model: DDPM, n: int, **options) -> torch.Tensor:
    return to_uint8(model.eval().sample(n, seed=3, **options))


def differ_by_rounding(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a.int() - b.int()).abs().max() <= 1


def test_images_are_the_samples_of_the_model_in_whatever_batches():
    model = make(classes=0)
    for batch_size in (1, 3, 7, 100):
        images = draw_images(model, 7, seed=3, batch_size=batch_size, progress=False)
        assert images.dtype == torch.uint8
        assert differ_by_rounding(images, sampled(model, 7))


def test_classes_are_those_asked_for_or_each_in_turn():
    model = make(classes=3)
    labels = torch.tensor([2, 2, 0, 1, 0, 1, 1])
    drawn = draw_images(model, 7, seed=3, batch_size=3, progress=False, labels=labels)
    assert differ_by_rounding(drawn, sampled(model, 7, labels=labels))
    in_turn = draw_images(model, 7, seed=3, batch_size=3, progress=False)
    assert differ_by_rounding(in_turn, sampled(model, 7, labels=torch.arange(7) % 3))
    of_none = draw_images(model, 7, seed=3, progress=False, guidance=0.0)
    assert differ_by_rounding(of_none, sampled(model, 7))
    for a, b in ((drawn, in_turn), (drawn, of_none), (in_turn, of_none)):
        assert not differ_by_rounding(a, b)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 0}, "n, batch_size: got 0, 128, want integers >= 1"),
        ({"batch_size": 0}, "n, batch_size: got 4, 0"),
        ({"labels": torch.tensor([0, 1])}, r"labels: got shape \[2\], want \[4\], one of each image"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, "labels: got 0 to 3, want classes 0 to 2"),
    ],
)
def test_what_does_not_fit_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        draw_images(make(classes=3), **{"n": 4, "seed": 0, "progress": False, **wrong})
