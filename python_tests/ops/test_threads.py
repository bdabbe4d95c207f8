"""Ops called from many Python threads at once, forward and backward: each gets what it gets alone, to the bit."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import CASES, Case
from torch import Tensor

import dgmkern

pytestmark = pytest.mark.timeout(120)

WORKERS = 6
ROUNDS = 2
# enough elements for several threads of a kernel, in many samples and in few
SHAPES = [(40, 2, 50, 50), (3, 70_000)]


def at_once(work: Callable[[int], None]) -> None:
    """Run work(0), work(1), ... in threads that start together, each under its own number of kernel threads."""
    together = threading.Barrier(WORKERS)

    def start(worker: int) -> None:
        torch.set_num_threads(1 + worker % 4)  # of this thread
        together.wait(60)
        work(worker)

    with ThreadPoolExecutor(WORKERS) as pool:
        for done in [pool.submit(start, worker) for worker in range(WORKERS)]:
            done.result(100)


def cotangents_of(outputs: tuple[Tensor, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(o.shape, generator=generator).to(o.dtype) for o in outputs]


def recorded(case: Case, inputs: list[Tensor], seed: int) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Leaves that share the memory of the inputs, and the outputs for them."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    return leaves, case.call(*leaves, **({"seed": seed} if case.draws else {}))


def gradients(leaves: list[Tensor], outputs: tuple[Tensor, ...], cotangents: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        outputs, leaves, cotangents, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def both_ways(case: Case, inputs: list[Tensor], seed: int) -> list[Tensor]:
    leaves, outputs = recorded(case, inputs, seed)
    return [*(o.detach() for o in outputs), *gradients(leaves, outputs, cotangents_of(outputs))]


def assert_same_bits(got, expected) -> None:
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_thread_gets_what_it_gets_alone(case, shape):
    """Some threads share their inputs, some differ in dtype; every other one has a seed of its own."""
    if not case.fits(shape):
        pytest.skip("not of this shape")
    inputs = {d: case.make(shape, d) for d in (torch.float32, torch.bfloat16)}
    jobs = [(inputs[torch.bfloat16 if worker % 3 == 2 else torch.float32], worker // 2) for worker in range(WORKERS)]
    torch.set_num_threads(1)
    expected = [both_ways(case, *job) for job in jobs]

    def work(worker: int) -> None:
        for _ in range(ROUNDS):
            assert_same_bits(both_ways(case, *jobs[worker]), expected[worker])

    at_once(work)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_threads_that_go_back_through_one_graph_get_the_same_gradients(case):
    shape = next(s for s in SHAPES if case.fits(s))
    leaves, outputs = recorded(case, case.make(shape), 5)
    cotangents = cotangents_of(outputs)
    torch.set_num_threads(1)
    expected = gradients(leaves, outputs, cotangents)

    def work(worker: int) -> None:
        for _ in range(ROUNDS):
            assert_same_bits(gradients(leaves, outputs, cotangents), expected)

    at_once(work)


def test_a_schedule_that_several_threads_use_first():
    """A schedule makes and keeps its tables at first use."""
    x, t = torch.ones(8, 100), torch.arange(8) * 9
    expected = dgmkern.q_sample(x, t, dgmkern.DiffusionSchedule.cosine(100), seed=1)
    for _ in range(10):
        fresh = dgmkern.DiffusionSchedule.cosine(100)

        def work(worker: int, fresh=fresh) -> None:
            assert torch.equal(dgmkern.q_sample(x, t, fresh, seed=1), expected)

        at_once(work)


def test_seeds_drawn_by_many_threads_are_all_different():
    """torch's generator is locked: no two calls draw the same seed."""
    drawn: list[list[int]] = [[] for _ in range(WORKERS)]

    def work(worker: int) -> None:
        for _ in range(100):
            drawn[worker].append(dgmkern.draw_seed().item())

    at_once(work)
    assert len({seed for seeds in drawn for seed in seeds}) == 100 * WORKERS
