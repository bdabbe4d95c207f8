"""Mean and covariance of features that come in batches, from several processes or from a file."""

import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ._features import check_count, check_features
from ._moments import Moments
from ._npz import read_npz, write_npz

_BLOCK = 4096  # rows of a batch looked at together: bounds the fp64 copy
_UNKNOWN = -1


class FeatureStats:
    """Mean and unbiased covariance of feature batches, in fp64 whatever their dtype, in memory O(D^2).

    Batches, and statistics of parts, are merged by the formula of Chan, Golub and LeVeque (1983): with
    delta = mean_b - mean_a, mean = mean_a + delta n_b / n and M2 = M2_a + M2_b + delta delta^T n_a n_b / n;
    covariance = M2 / (n - 1). The mean is kept as a sum of two doubles: one, far from 0, would cost delta its digits.
    So the covariance errs by some 1e-15 of its scale, wherever the features lie (5e-14 after 30 000 batches).

    `a + b` are the statistics of both, `a.merge(b)` puts them in a.

    Args:
        width: D, where it should be known before the first batch.
        device: where the statistics, and so the batches, are; by default where the first batch is.
    """

    def __init__(self, width: int | None = None, device: torch.device | str | None = None) -> None:
        if width is not None:
            check_count("width", width)
        self._device = None if device is None else torch.empty(0, device=device).device
        self._moments = Moments.none(width or 0, self._device)
        self._sigma: Tensor | None = None  # of a file without n

    @property
    def count(self) -> int | None:
        """Number of samples; None where it is not known: read from a file that does not say."""
        return self._moments.count if self._sigma is None else None

    @property
    def width(self) -> int | None:
        """D, the features of a sample; None before the first batch."""
        return self._moments.mean.shape[0] or None

    @property
    def device(self) -> torch.device:
        """Where the statistics are."""
        return self._moments.mean.device

    @property
    def mean(self) -> Tensor:
        """[D], float64. Raises ValueError before the first sample."""
        if self.count == 0:
            raise ValueError("mean: expected at least 1 sample, got 0")
        return self._moments.mean + self._moments.mean_low

    @property
    def covariance(self) -> Tensor:
        """[D, D], float64, unbiased (over n - 1), symmetric. Raises ValueError under 2 samples."""
        if self._sigma is not None:
            return self._sigma.clone()
        if self._moments.count < 2:
            raise ValueError(f"covariance: expected at least 2 samples, got {self._moments.count}")
        return (self._moments.m2 + self._moments.m2.T) / (2 * (self._moments.count - 1))

    def update(self, features: Tensor) -> None:
        """Add features [N, D] of float64, float32, bfloat16 or float16; none is added where they are refused.

        Raises:
            TypeError, ValueError: not a floating tensor [N, D], another D or device than before, values that are not
                finite (says how many, in which rows), or statistics of an unknown number of samples.
        """
        self._check_known("update")
        check_features("features", features, self.width)
        self._check_device("features", features.device)
        for block in features.detach().split(_BLOCK):
            if block.shape[0] > 0:
                self._moments = self._moments.with_samples(block)

    def merge(self, other: "FeatureStats") -> None:
        """Add the samples of `other`, which keeps its own.

        Raises:
            TypeError, ValueError: not FeatureStats of the same D and device, or an unknown number of samples.
        """
        if not isinstance(other, FeatureStats):
            raise TypeError(f"other: expected FeatureStats, got {type(other).__name__}")
        self._check_known("merge")
        other._check_known("merge")
        if None not in (self.width, other.width) and self.width != other.width:
            raise ValueError(f"other: expected {self.width} features per sample, as here, got {other.width}")
        if other._moments.count > 0:
            self._check_device("other", other.device)
            self._moments = self._moments.merged(other._moments)

    def __add__(self, other: "FeatureStats") -> "FeatureStats":
        if not isinstance(other, FeatureStats):
            return NotImplemented
        both = FeatureStats(self.width, self._device)
        both.merge(self)
        both.merge(other)
        return both

    def all_reduce(self, group: "dist.ProcessGroup | None" = None) -> None:
        """Give every rank of a process group the statistics of the samples of all: call it once, on each of them.

        The ranks' statistics are broadcast one after another and merged by each in rank order: memory O(D^2), the
        bits of `stats_0 + stats_1 + ...` in one process, the same on all ranks of like hardware. Ranks without samples
        take part. They travel on the CPU where the group has a backend for it (gloo), else on the current accelerator
        (nccl), and end where they were.

        Raises:
            RuntimeError: no process group.
            ValueError: on every rank, where their D differ or one has an unknown number of samples.
        """
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError("all_reduce: expected torch.distributed.init_process_group before, got no process group")
        device = _transport(group)
        mine = torch.tensor([_UNKNOWN if self.count is None else self.count, self.width or 0], device=device)
        gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
        dist.all_gather(gathered, mine, group=group)
        counts, widths = torch.stack(gathered).T.tolist()
        if _UNKNOWN in counts:
            unknown = [rank for rank, count in enumerate(counts) if count == _UNKNOWN]
            raise ValueError(f"all_reduce: expected known numbers of samples, got unknown ones on ranks {unknown}")
        if len(set(widths) - {0}) > 1:
            raise ValueError(f"all_reduce: expected one number of features per sample, got by rank {widths}")
        width = max(widths)
        everything = Moments.none(width, device)
        for rank, count in enumerate(counts):
            if count > 0:
                sent = torch.empty(width + 2, width, dtype=torch.float64, device=device)
                if rank == dist.get_rank(group):
                    torch.cat((self._moments.m2, self._moments.mean[None], self._moments.mean_low[None]), out=sent)
                dist.broadcast(sent, group=group, group_src=rank)
                everything = everything.merged(Moments(count, sent[width], sent[width + 1], sent[:width]))
        self._moments = Moments(everything.count, *(part.to(self.device) for part in everything[1:]))

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of count (int64), mean, mean_low and m2, to go on with bit for bit; ValueError without a count."""
        self._check_known("state_dict")
        return {
            name: torch.tensor(part) if name == "count" else part.clone()
            for name, part in self._moments._asdict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Become what `state_dict` was taken of, on the device given to the constructor, else on that of the state.

        Raises:
            KeyError, ValueError: other names, dtypes or shapes than those of a `state_dict`.
        """
        if set(state) != set(Moments._fields):
            raise KeyError(f"state: expected {sorted(Moments._fields)}, got {sorted(state)}")
        width = state["mean"].numel()
        shapes = {"count": (), "mean": (width,), "mean_low": (width,), "m2": (width, width)}
        for name, shape in shapes.items():
            dtype = torch.int64 if name == "count" else torch.float64
            if state[name].dtype != dtype or state[name].shape != shape:
                got = f"{state[name].dtype} {tuple(state[name].shape)}"
                raise ValueError(f"state[{name!r}]: expected {dtype} {shape}, got {got}")
        parts = (state[name].detach() for name in ("mean", "mean_low", "m2"))
        count = int(state["count"])
        self._moments = Moments(count, *(part.to(self._device or part.device, copy=True) for part in parts))
        self._sigma = None

    def save(self, path: str | os.PathLike) -> None:
        """Write an .npz as pytorch-fid does: arrays mu [D], sigma [D, D] (float64), and n where it is known.

        The file is whole or absent. Its mean is one double: to go on adding samples as if never saved, keep the
        `state_dict`.

        Raises:
            ValueError: fewer than 2 samples, or a name that does not end in .npz.
        """
        arrays = {"mu": self.mean.cpu().numpy(), "sigma": self.covariance.cpu().numpy()}
        if self.count is not None:
            arrays["n"] = np.int64(self.count)
        write_npz(Path(path), arrays)

    @classmethod
    def load(cls, path: str | os.PathLike, device: torch.device | str | None = None) -> "FeatureStats":
        """Read an .npz of `save` or of pytorch-fid. Without n in it the count is unknown: no samples can be added.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not an .npz of finite mu [D] and sigma [D, D], or n under 2; pickles are not read.
        """
        arrays = read_npz(Path(path))
        stats = cls(arrays["mu"].shape[0], device)
        stats._moments.mean.copy_(torch.from_numpy(arrays["mu"]))
        sigma = torch.from_numpy(arrays["sigma"]).to(stats.device)
        if "n" in arrays:
            count = int(arrays["n"])
            stats._moments = stats._moments._replace(count=count, m2=sigma * (count - 1))
        else:
            stats._sigma = sigma
        return stats

    def __repr__(self) -> str:
        return f"FeatureStats(count={self.count}, width={self.width}, device={str(self.device)!r})"

    def _check_known(self, action: str) -> None:
        if self.count is None:
            raise ValueError(
                f"{action}: expected a known number of samples, got statistics read from a file that does not say it "
                "(no n, as in pytorch-fid's): their weight against other samples is unknown"
            )

    def _check_device(self, name: str, device: torch.device) -> None:
        wanted = self.device if self._moments.count else self._device
        if wanted is not None and device != wanted:
            raise ValueError(f"{name}: expected the device {wanted} of the statistics, got {device}")


def _transport(group: "dist.ProcessGroup | None") -> torch.device:
    """A device that the group can send from, the same on every rank: the CPU, else the current accelerator."""
    kinds = [part.split(":")[0] for part in dist.get_backend_config(group).split(",")]
    return torch.device("cpu") if "cpu" in kinds else torch.device(kinds[0], torch.accelerator.current_device_index())
