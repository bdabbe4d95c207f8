"""Data-parallel training: what the processes that torchrun starts tell each other.

Tensors on the CPU travel by gloo, those on a GPU by NCCL. Gradients are averaged by one all-reduce of a flat buffer
after the backward pass. DistributedDataParallel would overlap the two, but wants one forward pass through its wrapper
for each backward pass: phases of a game run two networks, one of them frozen, a gradient penalty reads weights outside
of it, and semi-amortized inference differentiates twice.
"""

import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..models import Share

_TORCHRUN = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


class PeerError(RuntimeError):
    """Another process of the run failed or ended; it says itself why."""


class Ranks(Share):
    """The processes of a run, each with its share of every batch. What is returned is the same on all of them.

    All ranks must call a method that exchanges something, in the same order. Each raises PeerError where another rank
    is gone. With one rank nothing is exchanged.
    """

    @classmethod
    def current(cls) -> "Ranks":
        """The ranks of torch.distributed's default group; one where there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def gather(self, rows: Tensor) -> Tensor:
        return rows if self.ranks == 1 else _Gather.apply(rows, self)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over ranks of a scalar, in float64; NaN or infinite if that of any rank is."""
        value = value.detach().double()
        if self.ranks > 1:
            with _peers():
                dist.all_reduce(value)
        return value / self.ranks

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        if self.ranks == 1:
            return number
        value = torch.tensor(number)
        with _peers():
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients of `parameters` by their means over ranks, which have the same bits on all."""
        grads = [p.grad for p in parameters if p.grad is not None]
        if self.ranks == 1 or not grads:
            return
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        with _peers():
            dist.all_reduce(flat)
        parts = (flat / self.ranks).split([grad.numel() for grad in grads])
        torch._foreach_copy_(grads, [part.view(grad.shape) for part, grad in zip(parts, grads, strict=True)])

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give `tensors` the values that they have on rank 0."""
        if self.ranks > 1:
            with _peers(), torch.no_grad():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def on_first(self, act: Callable[[], object]) -> None:
        """Run `act` on rank 0 while the others wait; if it raises there, they raise PeerError."""
        error = None
        if self.rank == 0:
            try:
                act()
            except Exception as raised:
                error = raised
        failed = self.largest(int(error is not None))
        if error is not None:
            raise error
        if failed:
            raise PeerError("rank 0 failed; its message says why")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, ranks):
        ctx.ranks = ranks
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(ranks.ranks)]
        with _peers():
            dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone(memory_format=torch.contiguous_format)
        with _peers():
            dist.all_reduce(grad)  # every rank's loss depends on these rows
        return ctx.ranks.of(grad), None


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Context with the ranks that torchrun started, of which its environment tells; elsewhere one rank, this process.

    Raises PeerError if they do not meet.
    """
    if not os.environ.keys() >= _TORCHRUN:
        yield Ranks()
        return
    # Its functions take the group of the moment of import as a default. torch's optimizers would import it within the
    # group, whose threads it then keeps alive; one that still frees a tensor as Python ends aborts the process.
    importlib.import_module("torch.distributed.nn.functional")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))  # what NCCL takes without a word
    with _peers():
        dist.init_process_group()  # without a backend: gloo for the CPU, NCCL for GPUs
    try:
        yield Ranks.current()
    finally:
        dist.destroy_process_group()


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch.distributed's own errors are some, too
        raise PeerError(f"no answer from another rank ({str(error).splitlines()[0]})") from error
