"""Pixels, any module, and the door to the extractors."""

import numpy as np
import pytest
import torch
from torch import nn

from dgmkern.features import ModuleFeatures, PixelFeatures, load_extractor


def images(n=5, channels=3, side=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, side, side), generator=generator, dtype=torch.uint8)


def to_unit(x):
    return x.float() / 255


class Noisy(nn.Module):
    """Output, buffers and randomness of which differ between training and evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm2d(3).eval()
        self.layers = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(108, 7))

    def forward(self, x):
        return self.layers(self.frozen(x))


def test_pixels_are_numpys_by_255():
    x = images()
    features = PixelFeatures()(x)
    assert features.dtype == torch.float64
    assert np.array_equal(features.numpy(), x.numpy().reshape(5, -1) / 255)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (np.zeros((1, 1, 2, 2), np.uint8), TypeError, "images: expected a tensor, got ndarray"),
        (torch.zeros(1, 1, 2, 2), TypeError, "images: expected dtype uint8, got torch.float32"),
        (torch.zeros(1, 2, 2, dtype=torch.uint8), ValueError, r"expected \[N, C, H, W\], got the shape \(1, 2, 2\)"),
    ],
)
def test_extractors_refuse_what_is_no_batch_of_images(bad, error, message, digits_classifier):
    for extractor in (PixelFeatures(), ModuleFeatures(nn.Flatten(), to_unit), digits_classifier):
        if bad.ndim == 4 and error is ValueError:
            continue
        with pytest.raises(error, match=message):
            extractor(bad)


def test_a_module_is_evaluated_and_left_as_it_was():
    module = Noisy().train()
    module.frozen.eval()
    flags = {name: part.training for name, part in module.named_modules()}
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    extractor = ModuleFeatures(module, to_unit, "noisy")
    x = images()
    one, two = extractor(x), extractor(x)
    assert extractor.name == "noisy"
    assert torch.equal(one, two)
    assert {name: part.training for name, part in module.named_modules()} == flags
    assert sorted(set(flags.values())) == [False, True]
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    # the last layer of what evaluation gives, by hand: fresh batch norms divide by sqrt(1 + eps) twice
    linear = module.layers[3]
    hidden = x.double().flatten(1) / 255 / (1 + 1e-5)
    want = hidden @ linear.weight.double().T + linear.bias.double()
    assert torch.allclose(one.double(), want, atol=1e-6)
    assert not one.requires_grad
    assert not one.is_inference()


def test_a_module_that_raises_is_left_as_it_was():
    module = nn.Sequential(nn.Flatten(), nn.Linear(5, 2)).train()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        ModuleFeatures(module, to_unit)(images())
    assert all(part.training for part in module.modules())


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (nn.Flatten(0), ValueError, r"expected an output \[5, D\].*got the shape \(540,\)"),
        (nn.Flatten(0, 1), ValueError, r"expected an output \[5, D\].*got the shape \(15, 6, 6\)"),
        (nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (15, 36))), ValueError, r"got the shape \(15, 36\)"),
    ],
)
def test_an_output_of_another_shape_is_refused(module, error, message):
    with pytest.raises(error, match=message):
        ModuleFeatures(module, to_unit)(images())


def test_an_output_that_is_no_floating_tensor_is_refused():
    with pytest.raises(TypeError, match=r"expected an output of floating features .*, got torch\.uint8"):
        ModuleFeatures(nn.Flatten(), lambda x: x)(images())
    with pytest.raises(TypeError, match=r"got tuple"):
        ModuleFeatures(nn.LSTM(6, 2), lambda x: x[:, 0].float())(images())
    with pytest.raises(TypeError, match=r"module: expected an nn.Module, got function"):
        ModuleFeatures(to_unit, to_unit)


def test_the_door_knows_names_and_refuses_arguments_of_others():
    assert load_extractor("pixels").name == "pixels"
    for arguments, message in (
        ({"name": "vgg"}, "name: expected one of pixels, classifier, inception, got 'vgg'"),
        ({"name": "pixels", "data": "mnist"}, "data: expected none, it is for classifier, got 'mnist' for pixels"),
        ({"name": "classifier", "data": "digits", "weights": "x.pth"}, "weights: expected none, it is for inception"),
        ({"name": "classifier"}, "data: expected the data set whose classifier it is, got none"),
    ):
        with pytest.raises(ValueError, match=message):
            load_extractor(**arguments)
