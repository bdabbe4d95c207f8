"""Inception score: how sure a classifier is of each sample, and how varied its answers are."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._features import FeatureBatches, check_count, check_features, with_options


class InceptionScoreResult(NamedTuple):
    """`mean` and `std` (population, over splits) of the score: from 1 to the number of classes."""

    mean: float
    std: float


def inception_score(logits: Tensor, *, splits: int = 10, seed: int | None = None) -> InceptionScoreResult:
    """exp of the mean KL(p(c|x) || p(c)) over the samples of a split, p(c) their mean (Salimans et al. 2016).

    All in fp64 from log_softmax: log p(c) is a logsumexp of log p(c|x), finite where every probability underflows.

    Args:
        logits: [N, C] of a classifier, float64, float32, bfloat16 or float16.
        splits: S parts, rows i N // S to (i + 1) N // S, each with a score. The score has an upward bias where N / S
            is not far above C: compare scores of equal N and S.
        seed: shuffle the rows with it first, where they are not in random order; None: as they come.

    Returns:
        Mean and standard deviation of the splits' scores.

    Raises:
        TypeError, ValueError: logits not finite and floating [N, C]; splits < 1 or > N.
    """
    check_features("logits", logits)
    check_count("splits", splits)
    n = logits.shape[0]
    if splits > n:
        raise ValueError(f"splits: expected at most one a sample ({n}), got {splits}")
    logits = logits.detach()
    if seed is not None:
        logits = logits[torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(logits.device)]
    scores = [_score(logits[i * n // splits : (i + 1) * n // splits]) for i in range(splits)]
    mean = math.fsum(scores) / splits
    return InceptionScoreResult(mean, math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / splits))


class InceptionScore:
    """`inception_score` of logits that come in batches, `update(generated=logits)`, which it keeps until `compute`.

    Args:
        options: keyword arguments of `inception_score`.
    """

    def __init__(self, **options: int | None) -> None:
        self._logits = FeatureBatches()
        self._function = with_options(inception_score, options)
        self.reset = self._logits.reset

    def update(self, *, generated: Tensor) -> None:
        """Add logits [N, C]; TypeError or ValueError where they are not finite, floating and of the C before."""
        self._logits.update(generated=generated)

    def compute(self) -> InceptionScoreResult:
        """`inception_score` of all logits since `reset`; ValueError where there are fewer than splits."""
        return self._function(self._logits.joined("generated"))


def _score(logits: Tensor) -> float:
    log_p = logits.double().log_softmax(1)
    log_marginal = log_p.logsumexp(0) - math.log(log_p.shape[0])
    return math.exp(float((log_p.exp() * (log_p - log_marginal)).sum(1).mean()))
