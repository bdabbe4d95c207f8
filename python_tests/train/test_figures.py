import numpy as np
import pytest
import torch
from PIL import Image

from dgmkern.train.figures import save_image_grid, save_loss_curve, smooth


@pytest.mark.parametrize(("channels", "size", "factor"), [(1, 8, 6), (1, 28, 1), (3, 16, 3), (3, 100, 1)])
def test_every_image_is_in_the_grid_enlarged_by_a_whole_factor(tmp_path, channels, size, factor):
    torch.manual_seed(0)
    images = torch.randint(256, (5, channels, size, size), dtype=torch.uint8)
    save_image_grid(images, tmp_path / "grid.png")  # 5 images: 3 columns, 2 rows
    canvas = np.asarray(Image.open(tmp_path / "grid.png")).reshape(-1, 3 * (size * factor + 2) + 2, channels)
    assert canvas.shape[0] == 2 * (size * factor + 2) + 2
    for i in range(5):
        top, left = (2 + k * (size * factor + 2) for k in divmod(i, 3))
        tile = canvas[top : top + size * factor : factor, left : left + size * factor : factor]
        assert np.array_equal(tile.transpose(2, 0, 1), images[i].numpy())


def test_a_grid_of_two_channel_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got 2 channels"):
        save_image_grid(torch.zeros(1, 2, 8, 8, dtype=torch.uint8), tmp_path / "grid.png")


def test_smoothing_keeps_a_constant_and_follows_the_closed_form():
    assert smooth([3.0] * 50, span=10) == pytest.approx([3.0] * 50)
    values = np.random.default_rng(0).random(40)
    for n in (1, 7, 40):
        weights = 0.9 ** np.arange(n)[::-1]
        assert smooth(list(values), span=10)[n - 1] == pytest.approx((weights * values[:n]).sum() / weights.sum())


def test_the_loss_curve_is_a_png_with_something_drawn(tmp_path):
    save_loss_curve(list(range(1, 101)), {"loss": [1 / k for k in range(1, 101)]}, tmp_path / "loss.png", title="x")
    picture = np.asarray(Image.open(tmp_path / "loss.png").convert("RGB"))
    assert picture.shape[1] > 600
    blue = (picture[..., 2] > 150) & (picture[..., 0] < 60)
    assert blue.sum() > 200


@pytest.mark.parametrize("negative", [False, True])
def test_the_curves_of_two_players_share_a_picture_also_below_zero(tmp_path, negative):
    steps = list(range(1, 101))
    critic = [(-1 if negative else 1) / k for k in steps]
    losses = {"discriminator_loss": critic, "generator_loss": [2 + 1 / k for k in steps]}
    save_loss_curve(steps, losses, tmp_path / "loss.png", title="x")
    picture = np.asarray(Image.open(tmp_path / "loss.png").convert("RGB")).astype(int)
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    assert ((blue > 150) & (red < 60)).sum() > 200
    assert ((red > 230) & (blue < 60) & (green < 150)).sum() > 200
