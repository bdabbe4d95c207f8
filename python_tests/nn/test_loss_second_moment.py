"""Importance-sampled steps against the algorithm written step by step, and the estimator's mean and variance."""

import math

import pytest
import torch

from dgmkern.nn import LossSecondMoment

T = 12


pytestmark = pytest.mark.usefixtures("one_thread")


def filled(loss_of: torch.Tensor) -> LossSecondMoment:
    """A sampler that has seen the losses `loss_of` [T] ten times each."""
    sampler = LossSecondMoment(len(loss_of))
    for _ in range(10):
        sampler.update(torch.arange(len(loss_of)), loss_of)
    return sampler


def probabilities_of(history: list[list[float]]) -> list[float]:
    """Nichol & Dhariwal 2021, section 3.3, with 0.1% of the draws uniform; history[t] holds every loss of step t."""
    if any(len(losses) < 10 for losses in history):
        return [1 / len(history)] * len(history)
    size = [math.sqrt(math.fsum(loss**2 for loss in losses[-10:]) / 10) for losses in history]
    return [0.999 * s / math.fsum(size) + 0.001 / len(size) for s in size]


@pytest.mark.parametrize("batch", [1, 7, 64, 500])
def test_probabilities_are_those_of_the_last_ten_losses(batch):
    sampler, history = LossSecondMoment(T), [[] for _ in range(T)]
    for _ in range(2 + 600 // batch):
        t = torch.randint(T, (batch,))
        losses = torch.rand(batch) * (1 + t) ** 2
        sampler.update(t, losses)
        for step, loss in zip(t.tolist(), losses.tolist(), strict=True):
            history[step].append(loss)
        expected = torch.tensor(probabilities_of(history), dtype=torch.float64)
        torch.testing.assert_close(sampler.probabilities(), expected, rtol=1e-12, atol=0)
    assert sampler.seen.tolist() == [len(losses) for losses in history]
    assert min(sampler.seen) >= 10


def test_uniform_until_every_step_has_ten_losses():
    sampler = LossSecondMoment(T)
    for i in range(9):
        sampler.update(torch.arange(T), torch.arange(T) + 1.0 + i)
    sampler.update(torch.arange(T - 1), torch.arange(T - 1) + 1.0)
    assert torch.equal(sampler.probabilities(), torch.full((T,), 1 / T, dtype=torch.float64))
    _, weight = sampler.draw(torch.rand(50, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(weight, torch.ones(50, dtype=torch.float64), rtol=1e-14, atol=0)
    sampler.update(torch.tensor([T - 1]), torch.tensor([9.0]))
    assert sampler.probabilities().std() > 0.01


def test_steps_are_drawn_with_their_probabilities():
    sampler = filled(torch.linspace(0.1, 3, T))
    p, n = sampler.probabilities(), 200_000
    t, weight = sampler.draw(torch.rand(n, generator=torch.Generator().manual_seed(0)))
    chi_square = ((torch.bincount(t, minlength=T) - n * p) ** 2 / (n * p)).sum()
    assert chi_square < 31.3  # 11 degrees of freedom: 1 in 1000
    torch.testing.assert_close(weight, 1 / (T * p[t]), rtol=1e-14, atol=0)


def test_the_weighted_loss_has_the_mean_of_the_uniform_one():
    """In expectation to rounding, and over 200 000 draws within 5 standard errors, for losses unlike the past ones."""
    sampler = filled(torch.linspace(0.1, 3, T))
    loss_of = torch.rand(T, dtype=torch.float64) + 0.2
    p = sampler.probabilities()
    expectation = (p * loss_of / (T * p)).sum()
    torch.testing.assert_close(expectation, loss_of.mean(), rtol=1e-14, atol=0)
    t, weight = sampler.draw(torch.rand(200_000, generator=torch.Generator().manual_seed(1)))
    weighted = weight * loss_of[t]
    assert (weighted.mean() - loss_of.mean()).abs() < 5 * weighted.std() / math.sqrt(len(t))
    assert (loss_of[t].mean() - loss_of.mean()).abs() > 0.01  # without weights it would show


def test_its_variance_is_a_fraction_of_the_uniform_one():
    loss_of = torch.logspace(-2, 1, T, dtype=torch.float64)
    sampler = filled(loss_of)
    t, weight = sampler.draw(torch.rand(100_000, generator=torch.Generator().manual_seed(0)))
    assert (weight * loss_of[t]).std() < 0.05 * loss_of.std()


def test_draws_are_a_function_of_the_generator_and_the_past():
    sampler = filled(torch.linspace(0.1, 3, T))
    copy = LossSecondMoment(T)
    copy.load_state_dict(sampler.state_dict())
    first, again = (s.draw(torch.rand(100, generator=torch.Generator().manual_seed(3))) for s in (sampler, copy))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_losses_of_zero_leave_the_draws_uniform():
    sampler = filled(torch.zeros(T))
    assert torch.equal(sampler.probabilities(), torch.full((T,), 1 / T, dtype=torch.float64))
