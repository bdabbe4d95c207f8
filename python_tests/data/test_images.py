import pytest
import torch

from dgmkern.data import ImageDataset, to_signed, to_uint8


def test_every_grey_level_survives_scaling_there_and_back():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    signed = to_signed(levels)
    assert signed.dtype == torch.float32
    assert signed.min() == -1.0
    assert signed.max() == 1.0
    assert torch.equal(to_uint8(signed), levels)


def test_values_outside_the_range_are_clamped():
    assert to_uint8(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_scaling_refuses_the_other_kind_of_tensor():
    with pytest.raises(TypeError, match=r"images: got torch.float32"):
        to_signed(torch.zeros(1))
    with pytest.raises(TypeError, match=r"x: got torch.uint8"):
        to_uint8(torch.zeros(1, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64), "images: got torch.float32"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "images: got"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "labels: got"),
    ],
)
def test_a_dataset_checks_its_tensors(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageDataset("x", "train", images, labels, ("a",))
