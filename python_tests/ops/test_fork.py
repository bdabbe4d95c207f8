"""Ops in processes forked from one that has used them, as the workers of a DataLoader are.

A parent that has run on several threads has an OpenMP pool, and its children have not, though OpenMP believes so: a
parallel region in a child waits forever, torch's own ops included (torch.exp hangs as ours do). One thread in the child
is the remedy. DataLoader sets that in its workers; other children call torch.set_num_threads(1).
"""

import multiprocessing

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import dgmkern

SCHEDULE = dgmkern.DiffusionSchedule.cosine(100)
SHAPE = (16, 3, 64, 64)  # 196608 elements: several threads share them where there are several

pytestmark = pytest.mark.timeout(120)


def drawn(seed: int) -> dict[str, torch.Tensor]:
    """What each family draws from `seed`."""
    x = torch.linspace(-2, 2, 196608).view(SHAPE)
    t = (torch.arange(len(x)) * 7 + seed) % SCHEDULE.steps
    z, kl = dgmkern.gaussian_rsample_kl(x, x.flip(0), seed=seed)
    return {
        "normal": dgmkern.normal(SHAPE, seed, offset=3),
        "gaussian_rsample": dgmkern.gaussian_rsample(x, x.flip(1), seed=seed),
        "gaussian_rsample_kl": z,
        "kl": kl,
        "q_sample": dgmkern.q_sample(x, t, SCHEDULE, seed=seed),
        "q_sample, bf16": dgmkern.q_sample(x.bfloat16(), t, SCHEDULE, seed=seed),
    }


class Drawn(Dataset):
    """Sample i is what the ops draw from seed i, and the number of threads that drew it."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return drawn(i), torch.get_num_threads()


class DrawnByTorch(Dataset):
    """Sample i is noise of a seed that the op draws itself."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return dgmkern.gaussian_rsample(torch.zeros(8), torch.zeros(8))


@pytest.fixture
def expected():
    """The parent's results, and with them its pool of threads."""
    torch.set_num_threads(2)
    results = [drawn(i) for i in range(6)]
    assert len(torch.unique(torch.stack([r["q_sample"].flatten()[:8] for r in results]))) == 48  # a seed each
    return results


def loader(dataset: Dataset, workers: int = 2) -> DataLoader:
    return DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context="fork", timeout=60)


def test_workers_of_a_data_loader_draw_the_parents_bits(expected):
    samples = list(loader(Drawn()))
    assert [threads for _, threads in samples] == [1] * 6
    for (got, _), wanted in zip(samples, expected, strict=True):
        assert got.keys() == wanted.keys()
        for name, x in wanted.items():
            assert torch.equal(got[name], x), name


def test_seeds_drawn_in_workers_differ_between_them_and_repeat(expected):
    torch.manual_seed(4)
    first = torch.stack(list(loader(DrawnByTorch())))
    torch.manual_seed(4)
    assert torch.equal(torch.stack(list(loader(DrawnByTorch()))), first)
    assert len(first.unique()) == first.numel()


def test_a_forked_child_with_one_thread_draws_the_parents_bits(expected):
    """multiprocessing alone sets no number of threads: its user does."""
    with multiprocessing.get_context("fork").Pool(2, torch.set_num_threads, (1,)) as pool:
        got = pool.map_async(as_arrays, range(6)).get(60)
    for arrays, wanted in zip(got, expected, strict=True):
        for name, x in wanted.items():
            assert torch.equal(torch.from_numpy(arrays[name]), x.float()), name


def as_arrays(seed: int) -> dict:
    return {name: x.float().numpy() for name, x in drawn(seed).items()}


def test_the_parent_goes_on_with_its_threads_after_the_fork(expected):
    list(loader(Drawn()))
    assert torch.get_num_threads() == 2
    for i, wanted in enumerate(expected):
        for name, x in drawn(i).items():
            assert torch.equal(x, wanted[name]), name
