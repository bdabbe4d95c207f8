"""Seeds follow torch's generators."""

import pytest
import torch

import dgmkern
from dgmkern.rng import draw_seed, seed_tensor


def test_manual_seed_and_fork_rng_govern_the_draw():
    torch.manual_seed(5)
    first = dgmkern.gaussian_rsample(torch.zeros(8), torch.zeros(8))
    with torch.random.fork_rng():
        dgmkern.gaussian_rsample(torch.zeros(8), torch.zeros(8))
    second = dgmkern.gaussian_rsample(torch.zeros(8), torch.zeros(8))
    torch.manual_seed(5)
    assert torch.equal(first, dgmkern.gaussian_rsample(torch.zeros(8), torch.zeros(8)))
    assert torch.equal(second, dgmkern.gaussian_rsample(torch.zeros(8), torch.zeros(8)))


def test_generator_leaves_the_default_one_alone():
    state = torch.get_rng_state()
    a = draw_seed(generator=torch.Generator().manual_seed(1))
    b = draw_seed(generator=torch.Generator().manual_seed(1))
    assert torch.equal(a, b)
    assert torch.equal(state, torch.get_rng_state())


def test_activation_checkpointing_draws_the_same_noise_again():
    x = torch.randn(16, 4, requires_grad=True)

    def f(x):
        return dgmkern.gaussian_rsample(x, x).sin().sum()

    torch.manual_seed(3)
    (plain,) = torch.autograd.grad(f(x), x)
    torch.manual_seed(3)
    (checkpointed,) = torch.autograd.grad(torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False), x)
    assert torch.equal(plain, checkpointed)


@pytest.mark.parametrize(("seed", "same_as"), [(2**64 - 1, -1), (2**63, -(2**63)), (2**64 + 7, 7)])
def test_int_seeds_are_taken_modulo_2_to_the_64(seed, same_as):
    assert torch.equal(dgmkern.normal(9, seed), dgmkern.normal(9, same_as))


@pytest.mark.parametrize(
    ("seed", "error"),
    [
        (1.5, TypeError),
        (True, TypeError),
        ("1", TypeError),
        (torch.tensor([1.0]), TypeError),
        (torch.tensor([1, 2]), ValueError),
        (torch.tensor([1], device="meta"), ValueError),
    ],
)
def test_bad_seeds_are_refused_by_name(seed, error):
    with pytest.raises(error, match="seed"):
        seed_tensor(seed, "cpu")
