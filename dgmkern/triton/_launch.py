"""From torch tensors to the programs of a Triton kernel, and back: dense copies, outputs, tiles, per-sample sums.

Every kernel is launched by `launch`. Kernels see the tensors of an op as [samples, inner] in memory order and work on
tiles [ROWS, COLS] of it; _tile.py is the same on the device's side.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..reference.gaussian import compute_dtype
from ..reference.layout import empty_as, layout_of
from ._tile import finish_sum

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TILE = 65536 if INTERPRETED else 1024  # elements of a tile; a program costs the interpreter milliseconds
HIP = torch.version.hip is not None  # compile_kernels.py of the tests sets it, too
PART = 65536 if INTERPRETED else 4096  # elements of a sample that one program sums, at least
MOST_PARTS = 1024  # of a sample
WIDE_FROM = 2**31  # elements of a sample, from which on offsets take 64 bits; compile_kernels.py of the tests sets it

# compile_kernels.py of the tests sets it, to see launches instead of making them: (kernel, arguments by name)
hook: Callable[[object, dict], None] | None = None


def launch(kernel, programs: int, device: torch.device, *args, **named) -> None:
    """Run `programs` programs of a kernel on `device`, on its current stream."""
    if hook is not None:
        hook(kernel, {**dict(zip(kernel.arg_names, args, strict=False)), **named})
    elif device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[(programs,)](*args, **named)
    else:
        kernel[(programs,)](*args, **named)


def _unfit(name: str, wanted: str, x: Tensor) -> ValueError:
    return ValueError(f"{name}: expected {wanted}, got {str(x.dtype)[6:]} {list(x.shape)}")


def power_of_2(n: int) -> int:
    """The smallest power of 2 that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def narrow_tile(x: Tensor, of_fp64: int = TILE, of_others: int = TILE) -> int:
    """Elements of a tile in a kernel of many numbers, which are to stay in registers: fp64 takes two each, and AMD's
    scalar ones hold a mask for each condition on each of a thread's elements."""
    if INTERPRETED:
        return TILE
    elif HIP:
        return 256
    else:
        return of_fp64 if x.dtype is torch.float64 else of_others


@dataclass(frozen=True)
class Sum:
    """A per-sample sum: `target` [N] or, where samples are summed in parts, [N, parts] in fp64 is what the kernel
    writes (by `store_sum`), `how` what becomes of a sum; `Operands.finished` gives the result [N]."""

    target: Tensor
    how: dict


class Operands:
    """The tensors of an op, all dense in the memory order of the first one, `like`.

    Without `by_sample` they are one long sample, [1, numel]: for ops that treat all samples alike.
    """

    def __init__(self, like: Tensor, *, by_sample: bool = True, sums: bool = False):
        self.like = like
        self.layout = layout_of(like)
        self.device, self.numel = like.device, like.numel()
        self.samples = like.shape[0] if like.dim() > 0 else 1
        self.channels = self.pixels = 1  # of channels_last
        if self.layout is not torch.contiguous_format:
            self.channels = like.shape[1]
            self.pixels = math.prod(like.shape[2:])
        self._by_sample, self._sums = by_sample or sums, sums

    def dense(self, x: Tensor | None, name: str = "input") -> Tensor | None:
        """An input shaped as the first one, in its memory order: x itself or a copy; None stays None.

        Raises ValueError for a tensor of another shape or on another device (the public wrappers check first: this
        guards raw calls of the ops).
        """
        return None if x is None else self.check(x, name).contiguous(memory_format=self.layout)

    def check(self, x: Tensor, name: str = "input") -> Tensor:
        """x itself, if it is shaped as the first input."""
        if x.shape != self.like.shape:
            raise _unfit(name, f"a tensor {list(self.like.shape)} like the others", x)
        return self._here(x, name)

    def doubled(self, x: Tensor, name: str = "model_out") -> Tensor:
        """The same for an input of twice the channels: [N, 2 C, ...]."""
        shape = self.like.shape
        if x.dim() != len(shape) or x.dim() < 2 or x.shape != (shape[0], 2 * shape[1], *shape[2:]):
            raise _unfit(name, f"a tensor [N, 2 C, ...] beside {list(shape)}", x)
        return self._here(x, name).contiguous(memory_format=self.layout)

    def per_sample(self, x: Tensor | None, name: str = "grad", dtype: torch.dtype | None = None) -> Tensor | None:
        """Numbers of the samples, [N], dense; of the compute dtype unless another is given; None stays None."""
        if x is None:
            return None
        dtype = compute_dtype(self.like) if dtype is None else dtype
        if x.shape != self.like.shape[:1] or x.dtype is not dtype:
            raise _unfit(name, f"{str(dtype)[6:]} [{self.samples}], one number per sample", x)
        return self._here(x, name).contiguous()

    def scheduled(self, t: Tensor, table: Tensor, rows: int = 7) -> tuple[Tensor, int, Tensor, int]:
        """The arguments t, t_stride, table, count of a kernel; the table has `rows` rows."""
        if table.dim() != 2 or table.shape[0] != rows or table.dtype is not torch.float64:
            raise _unfit("table", f"float64 [{rows}, T] of a schedule", table)
        return *self.steps(t, "t"), self._here(table, "table").contiguous(), table.shape[1]

    def steps(self, t: Tensor | None, name: str) -> tuple[Tensor | None, int]:
        """Steps of the samples as arguments of a kernel, and their stride; nothing is copied."""
        if t is None:
            return None, 0
        if t.shape != self.like.shape[:1] or self.like.dim() == 0 or t.dtype is not torch.int64:
            raise _unfit(name, f"int64 [{self.samples}], one step per sample", t)
        return self._here(t, name), t.stride(0)

    def _here(self, x: Tensor, name: str) -> Tensor:
        if x.device != self.device:
            raise ValueError(f"{name}: expected a tensor on {self.device}, got one on {x.device}")
        return x

    def out(self) -> Tensor:
        """An uninitialized output like the first input."""
        return empty_as(self.like)

    def noise(self, noise: Tensor | None, seed: Tensor | None, offset: int) -> dict:
        """The arguments `source`, `offset` and `NOISE` of a kernel that uses noise (`eps_of`): the noise given, or the
        seed to draw it from, by fours where the numbers of all counters fall into one place."""
        if noise is not None:
            return {"source": self.dense(noise, "noise"), "offset": 0, "NOISE": "given"}
        if seed is None or seed.dtype is not torch.int64 or seed.numel() != 1 or seed.device != self.device:
            raise ValueError(f"seed: expected an int64 tensor of one element on {self.device} where no noise is given")
        if self.layout is not torch.contiguous_format:
            self._by_sample = True  # noise is numbered by sample, channel and pixel
            fours = offset % 4 == 0 and self.pixels % 4 == 0
            return {"source": seed, "offset": offset, "NOISE": "fours_last" if fours else "each_last"}
        fours = offset % 4 == 0 and (not self._by_sample or self.samples == 1 or self.inner % 4 == 0)
        return {"source": seed, "offset": offset, "NOISE": "fours" if fours else "each"}

    def halves(self) -> str:
        """HALVES of a kernel that reads or writes a tensor of twice the channels (`at_halves`)."""
        return "blocks" if self.layout is torch.contiguous_format else "last"

    @property
    def inner(self) -> int:
        """Elements of a sample."""
        return self.numel // max(self.samples, 1) if self._by_sample else self.numel

    @property
    def part(self) -> int:
        """Elements of a sample that one program sums: a multiple of COLS, or all."""
        if self.inner <= PART:
            return max(self.inner, 1)
        return power_of_2(max(PART, -(-self.inner // MOST_PARTS)))

    @property
    def parts(self) -> int:
        return -(-self.inner // self.part)

    @property
    def wide(self) -> bool:
        """Whether offsets in a sample, the end of its last tile or part included, take 64 bits."""
        return self.inner + max(self.part, TILE) >= WIDE_FROM

    def run(self, kernel, *args, tile: int = TILE, **named) -> None:
        """Launch `kernel` over all tiles, with those of the arguments below that it takes; nothing where there are no
        elements."""
        if self.numel == 0:
            return
        samples, inner = self.samples if self._by_sample else 1, self.inner
        if self.wide and not INTERPRETED:
            tile = min(tile, TILE // 2)  # an offset takes two registers
        columns = min(tile, max(power_of_2(inner), 4))
        rows = min(tile // columns, power_of_2(samples))
        width = self.part if self._sums else columns
        own = {
            "samples": samples,
            "inner": inner,
            "channels": self.channels,
            "PART": width if self.parts > 1 else None,
            "ROWS": rows,
            "COLS": columns,
            "WIDE": self.wide,
        }
        takes = kernel.arg_names
        named.update((name, value) for name, value in own.items() if name in takes)
        launch(kernel, -(-samples // rows) * -(-inner // width), self.device, *args, **named)

    def run_samples(self, kernel, *args, tile: int, **named) -> None:
        """Launch `kernel` with all elements of a sample in one program, which goes over tiles of at most `tile`."""
        columns = min(tile, max(power_of_2(self.inner), 4))
        rows = min(max(TILE // columns, 1), power_of_2(self.samples))
        own = {
            "samples": self.samples,
            "inner": self.inner,
            "channels": self.channels,
            "ROWS": rows,
            "COLS": columns,
            "WIDE": self.wide,
            "num_warps": min(16, max(4, columns // 1024)),
        }
        launch(kernel, -(-self.samples // rows), self.device, *args, **own, **named)

    def sum(self, *, scale: float = 1.0, shift: float = 0.0, mean: bool = False, weight: Tensor | None = None) -> Sum:
        """Where a kernel puts per-sample sums: scale sum + shift (scale sum / D + shift for `mean`), rounded to the
        compute dtype, times weight [N] rounded to it."""
        how = {"weight": weight, "SCALE": scale, "SHIFT": shift, "MEAN": mean}
        if self.numel > 0 and self.parts > 1:
            return Sum(self.like.new_empty((self.samples, self.parts), dtype=torch.float64), how)
        result = self.like.new_empty((self.samples,), dtype=compute_dtype(self.like))
        if self.numel == 0:  # a sum over nothing is 0, a mean over nothing NaN
            result.fill_(math.nan if mean else scale * 0.0 + shift)
        return Sum(result, how)

    def finished(self, sums: Sum) -> Tensor:
        """The sums [N]; parts are added in a fixed order."""
        if sums.target.dim() == 1:
            return sums.target
        result = self.like.new_empty((self.samples,), dtype=compute_dtype(self.like))
        launch(
            finish_sum,
            self.samples,
            self.device,
            sums.target,
            result,
            self.parts,
            self.inner,
            **sums.how,
            BLOCK=power_of_2(self.parts),
        )
        return result
