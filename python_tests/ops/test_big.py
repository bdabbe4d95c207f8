"""Tensors of more than 2^31 elements, on which 32-bit indices break: `make test-big`, 20 GB of memory.

Each op runs on the whole tensors, then on small pieces of them that lie at the front, where byte offsets pass 2^31,
where element numbers do, and at the end: the results must be the same bits. An op of another family adds a line to BIG.
"""

import resource
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import dgmkern

pytestmark = [pytest.mark.big, pytest.mark.timeout(600)]

MEMORY = 20e9
ELEMENTS = 2**31 + 2**22
SCHEDULE = dgmkern.DiffusionSchedule.cosine(100)
DTYPE = torch.bfloat16

# [N, ...]: few elements a sample, some, all, and a memory order in which the noise is numbered otherwise
SHAPES = {
    "rows of 32": (ELEMENTS // 32, 32),
    "rows": (ELEMENTS // 2048, 2048),
    "one sample": (1, ELEMENTS),
    "channels_last": (ELEMENTS // 2**22, 4, 1024, 1024),
}


@dataclass(frozen=True)
class Big:
    """`call(x, y, t, offset)`: x and y alike, [N, ...]; t int64 [N]; offset, number of the first element's noise.

    Returns tensors like x or per sample, [N]. At most 2 results like x, and no more memory than they take.
    """

    name: str
    call: Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, ...]]
    shapes: tuple[str, ...] = tuple(SHAPES)

    def __str__(self) -> str:
        return self.name


def seed() -> Tensor:
    return torch.tensor([7])


def learned(x, y, t, offset):
    """x is the model's output, with twice the channels of x_t."""
    x_t = y[:, : y.shape[1] // 2]
    return (dgmkern.p_sample(x, x_t, t, SCHEDULE, variance="learned_range", seed=7, offset=offset // 2),)


def rsample_kl_backward(x, y, t, offset):
    grad_kl = t.float() / 100
    return torch.ops.dgmkern.gaussian_rsample_kl_backward(y, grad_kl, x, y, None, seed(), offset)


def q_sample_backward(x, y, t, offset):
    return (torch.ops.dgmkern.q_sample_backward(x, t, SCHEDULE.q_table(x.device), 1),)


WIDE = ("rows", "one sample", "channels_last")  # reverse steps keep 88 bytes a sample
NO_HALVES = ("rows", "channels_last")  # pieces of one sample have no halves and no quantile of their own

BIG = [
    Big(
        "normal",
        lambda x, y, t, offset: (dgmkern.normal(x.shape, 7, offset=offset, dtype=DTYPE),),
        ("rows", "one sample"),
    ),
    Big("gaussian_rsample", lambda x, y, t, offset: (dgmkern.gaussian_rsample(x, y, seed=7, offset=offset),)),
    Big("gaussian_kl", lambda x, y, t, offset: (dgmkern.gaussian_kl(x, y),)),
    Big("gaussian_kl_sample", lambda x, y, t, offset: (dgmkern.gaussian_kl(x, y, reduction="sample"),)),
    Big("gaussian_kl_between_sample", lambda x, y, t, offset: (dgmkern.gaussian_kl(x, y, y, x, reduction="sample"),)),
    Big("gaussian_rsample_kl", lambda x, y, t, offset: dgmkern.gaussian_rsample_kl(x, y, seed=7, offset=offset)),
    Big("gaussian_rsample_kl_backward", rsample_kl_backward),
    Big("q_sample", lambda x, y, t, offset: (dgmkern.q_sample(x, t, SCHEDULE, seed=7, offset=offset),)),
    Big("q_sample, noise given", lambda x, y, t, offset: (dgmkern.q_sample(x, t, SCHEDULE, noise=y),)),
    Big("q_sample_v", lambda x, y, t, offset: dgmkern.q_sample(x, t, SCHEDULE, seed=7, offset=offset, target="v")),
    Big("q_sample_backward", q_sample_backward),
    Big(
        "p_sample",
        lambda x, y, t, offset: (dgmkern.p_sample(x, y, t, SCHEDULE, clip=1.0, seed=7, offset=offset),),
        WIDE,
    ),
    Big("p_sample_learned_range", learned, NO_HALVES),
    Big(
        "ddim_step_dynamic",
        lambda x, y, t, offset: (dgmkern.ddim_step(x, y, t, -1, SCHEDULE, clip="dynamic"),),
        NO_HALVES,
    ),
    Big(
        "dpm_solver_step",
        lambda x, y, t, offset: dgmkern.dpm_solver_step(x, y, t, t // 2, SCHEDULE, x0_last=x, t_last=t + 1),
        WIDE,
    ),
]


@pytest.fixture(scope="module")
def numbers() -> tuple[Tensor, Tensor]:
    """Two dense vectors, which the cases view as they want."""
    with open("/proc/meminfo") as file:
        available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    if available < MEMORY:
        pytest.fail(f"these tests take {MEMORY / 1e9:g} GB of memory, {available / 1e9:.1f} GB are available")
    return dgmkern.normal(ELEMENTS, 1, dtype=DTYPE), dgmkern.normal(ELEMENTS, 2, dtype=DTYPE)


def shaped(x: Tensor, shape: str) -> Tensor:
    n, *rest = SHAPES[shape]
    if shape != "channels_last":
        return x.view(n, *rest)
    return x.view(n, *rest[1:], rest[0]).permute(0, 3, 1, 2)


def pieces(shape: str) -> tuple[int, list[slice]]:
    """The dimension that is cut, and the pieces: front, around 2^30 and 2^31 elements, end."""
    dim = 1 if shape == "one sample" else 0
    length = SHAPES[shape][dim]
    per = ELEMENTS // length
    wide = max(1, 4096 // per)
    middles = [2**30 // per, 2**31 // per]
    assert all(wide <= m <= length - 1 for m in middles)
    starts = [0, *(m - wide for m in middles), length - 2 * wide]
    return dim, [slice(start, min(start + 2 * wide, length)) for start in starts]


@pytest.mark.parametrize(("case", "shape"), [(case, shape) for case in BIG for shape in case.shapes], ids=str)
def test_pieces_of_a_big_tensor_are_as_the_op_makes_them(numbers, case, shape):
    x, y = (shaped(n, shape) for n in numbers)
    t = (torch.arange(len(x)) * 37 + 5) % (SCHEDULE.steps - 1)
    results = case.call(x, y, t, 0)
    dim, cuts = pieces(shape)
    for cut in cuts:
        at = (slice(None),) * dim + (cut,)
        some_t = t if dim == 1 else t[cut]
        small = case.call(x[at], y[at], some_t, cut.start * (ELEMENTS // x.shape[dim]))
        for whole, piece in zip(results, small, strict=True):
            if whole.dim() > 1:
                assert torch.equal(whole[at], piece), cut
            elif dim == 0:
                assert torch.equal(whole[cut], piece), cut
    for k, whole in enumerate(results):
        if dim == 1 and whole.dim() == 1:  # a sum over all of it: of sums over pieces
            long = 2**27
            parts = [
                case.call(x[:, i : i + long], y[:, i : i + long], t, i)[k].double() for i in range(0, ELEMENTS, long)
            ]
            torch.testing.assert_close(whole.double(), torch.stack(parts).sum(0), rtol=2e-7, atol=0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MEMORY
