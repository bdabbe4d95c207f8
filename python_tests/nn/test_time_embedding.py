import math

import pytest
import torch

from dgmkern.nn import TimeEmbedding, sinusoidal_embedding


def test_sinusoids_match_the_formula_in_fp64():
    t, dim = torch.tensor([0, 1, 7, 999]), 32
    want = torch.empty(4, dim, dtype=torch.float64)
    for n in range(4):
        for i in range(dim // 2):
            angle = t[n].item() * 10_000.0 ** (-i / (dim / 2))
            want[n, i], want[n, dim // 2 + i] = math.cos(angle), math.sin(angle)
    assert (sinusoidal_embedding(t, dim) - want).abs().max() < 1e-4  # fp32 angles up to 999


def test_neighbouring_steps_are_told_apart():
    embedding = sinusoidal_embedding(torch.arange(1000), 32)
    distance = (embedding[1:] - embedding[:-1]).norm(dim=1)
    assert distance.min() > 0.5


def test_scale_stretches_the_time_axis():
    torch.manual_seed(0)
    embedding = TimeEmbedding(16, 24, scale=5.0)
    unscaled = TimeEmbedding(16, 24)
    unscaled.load_state_dict(embedding.state_dict())
    t = torch.arange(4)
    assert embedding(t).shape == (4, 24)
    assert torch.equal(embedding(t), unscaled(5 * t))


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="dim: got 7"):
        sinusoidal_embedding(torch.arange(2), 7)
