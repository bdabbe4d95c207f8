import pytest
import torch

from dgmkern.nn import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


def make(channels: int = 1, *, out: int | None = None, multipliers: tuple[int, ...] = (1, 2), **settings) -> UNet:
    """A small UNet with weights away from the zero initialization of its last layers, so that all of it takes part."""
    torch.manual_seed(1)
    unet = UNet(channels, out or channels, channels=16, multipliers=multipliers, head_dim=32, **settings)
    for parameter in unet.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return unet


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 7, 5), (1, 1, 1), (2, 9, 32)])
@pytest.mark.parametrize("multipliers", [(2,), (1, 2), (1, 2, 2)])
def test_unet_returns_the_shape_it_was_given_for_any_size(shape, multipliers):
    x = torch.randn(2, *shape)
    out = make(shape[0], multipliers=multipliers)(x, torch.tensor([0, 19]))
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert out.std() > 0


def test_the_prediction_may_have_other_channels():
    assert make(3, out=6)(torch.randn(2, 3, 8, 8), torch.tensor([0, 19])).shape == (2, 6, 8, 8)


def test_the_network_sees_the_time_step():
    x = torch.randn(1, 1, 8, 8).expand(2, -1, -1, -1)
    early, late = make()(x, torch.tensor([0, 19]))
    assert (early - late).abs().max() > 1e-3


def test_time_scale_stretches_the_steps():
    x = torch.randn(2, 1, 8, 8)
    t = torch.tensor([2, 7])
    assert torch.equal(make(time_scale=4.0)(x, t), make()(x, 4 * t))


def test_the_network_sees_the_class_and_no_class_is_the_last():
    unet = make(classes=3)
    x, t = torch.randn(1, 1, 8, 8).expand(4, -1, -1, -1), torch.full((4,), 5)
    out = unet(x, t, torch.arange(4))
    assert torch.pdist(out.flatten(1)).min() > 1e-2
    assert torch.equal(unet(x[:2], t[:2]), unet(x[:2], t[:2], torch.full((2,), 3)))


def test_images_of_a_batch_do_not_mix():
    unet = make(classes=3).double()
    x, t, labels = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([1, 5, 9]), torch.tensor([2, 0, 3])
    alone = torch.cat([unet(x[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(3)])
    assert (unet(x, t, labels) - alone).abs().max() < 1e-12


def test_channels_last_changes_nothing_but_rounding():
    unet = make().double()
    x, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([1, 9])
    want = unet(x, t)
    got = unet.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), t)
    assert (got - want).abs().max() < 1e-12
