"""Of latent variable models: units in use, mutual information, the importance-weighted likelihood, bits/dim."""

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..ops import gaussian_kl, gaussian_rsample
from ..ops._arguments import check_alike, check_floating
from ._features import check_count, check_finite
from .feature_stats import FeatureStats

Nats = TypeVar("Nats", float, Tensor)
_ROWS = 16  # samples whose density under every posterior is in memory at a time


class ActiveUnits(NamedTuple):
    """`count` of active units, and the `variances` [D] over data of their posterior means, float64."""

    count: int
    variances: Tensor


def active_units(means: Tensor | FeatureStats, threshold: float = 0.01) -> ActiveUnits:
    """Latent units whose posterior mean depends on the data: Var_x(E_q(u|x)[u]) > threshold (Burda et al. 2016, 5.2).

    Args:
        means: posterior means of a data set, [N, ...], N >= 2, floating; units are the elements of a row. Or the
            FeatureStats of means that came in batches.
        threshold: variance (unbiased, in fp64) above which a unit is active; 0.01 in the paper.

    Raises:
        TypeError, ValueError: means not floating, finite and of at least 2 data.
    """
    if isinstance(means, FeatureStats):
        variances = means.covariance.diagonal().clone()
    else:
        check_floating("means", means)
        if means.dim() < 2 or means.shape[0] < 2:
            raise ValueError(f"means: expected [N, ...] of at least 2 data, got the shape {tuple(means.shape)}")
        check_finite("means", means)
        means = means.detach().flatten(1).double()
        variances = (means - means[0]).var(0)  # of means far from 0, torch's one pass loses digits
    return ActiveUnits(int((variances > threshold).sum()), variances)


class MutualInformation(NamedTuple):
    """The rate of an encoder in two, nats: mean `kl` of q(z|x) from N(0, I) = `information` + `marginal_kl`.

    `information` is I_q(x; z) between the data and their latents; `marginal_kl` is KL(q(z) || N(0, I)).
    """

    information: float
    kl: float
    marginal_kl: float


def mutual_information(mu: Tensor, logvar: Tensor, *, seed: int = 0) -> MutualInformation:
    """I_q(x; z) = E_x E_q(z|x) [log q(z|x) - log q(z)], q(z) = 1/N sum_n q(z|x_n) (Hoffman & Johnson 2016).

    Estimated with one sample of each datum, in fp64, in N^2 D operations: the mean of N values, each at most log N. 0
    after posterior collapse. The KL is the closed form, so that `marginal_kl` may be below 0 by the error.

    Args:
        mu, logvar: q(z|x) = N(mu, e^logvar) of a data set, [N, ...], floating, alike; take more than a few hundred.
        seed: of the samples.

    Raises:
        TypeError, ValueError: not finite, alike and of at least 1 datum.
    """
    check_floating("mu", mu)
    check_alike("logvar", logvar, "mu", mu)
    if mu.dim() < 2 or mu.shape[0] == 0:
        raise ValueError(f"mu: expected [N, ...] of at least 1 datum, got the shape {tuple(mu.shape)}")
    check_finite("mu", mu)
    check_finite("logvar", logvar)
    mu, logvar = (p.detach().flatten(1).double() for p in (mu, logvar))
    z = gaussian_rsample(mu, logvar, seed=seed)
    kl = gaussian_kl(mu, logvar, reduction="sample").mean().item()
    own = _log_density(z, mu, logvar)  # but for D/2 log 2 pi, [N]
    information = 0.0
    for rows, log_q in zip(z.split(_ROWS), own.split(_ROWS), strict=True):
        of_all = _log_density(rows[:, None], mu, logvar)  # [rows, N]
        information += (log_q - of_all.logsumexp(1) + math.log(len(mu))).sum().item()
    information /= len(mu)
    return MutualInformation(information, kl, kl - information)


def _log_density(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return -((z - mu).square() * torch.exp(-logvar) + logvar).sum(-1) / 2


class ImportanceWeightedNLL:
    """`importance_weighted_nll` of weights that come in chunks of k, in memory O(N): `update` for each, then `compute`.

    For 5000 samples of a datum, of which a decoder takes 50 at a time.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all weights."""
        self._k = 0
        self._largest = self._sum = torch.zeros(0, dtype=torch.float64)

    def update(self, log_weights: Tensor) -> None:
        """Add log w [N, k], of k further samples of each of the same N data.

        Raises:
            TypeError, ValueError: not [N, k] of a floating dtype, NaN or +inf in it (says how many), another N or
                device than before. -inf, a sample of weight 0, is a weight as any other.
        """
        check_floating("log_weights", log_weights)
        if log_weights.dim() != 2 or log_weights.shape[1] == 0:
            raise ValueError(f"log_weights: expected [N, k], k >= 1, got the shape {tuple(log_weights.shape)}")
        check_finite("log_weights", log_weights.masked_fill(log_weights.isneginf(), 0))
        if self._k and log_weights.shape[0] != self._sum.shape[0]:
            raise ValueError(f"log_weights: expected the {self._sum.shape[0]} data before, got {log_weights.shape[0]}")
        if self._k and log_weights.device != self._sum.device:
            raise ValueError(f"log_weights: expected the device {self._sum.device}, got {log_weights.device}")
        chunk = log_weights.detach().double()
        largest = chunk.amax(1) if self._k == 0 else torch.maximum(self._largest, chunk.amax(1))
        shift = largest.masked_fill(largest.isneginf(), 0)
        total = (chunk - shift[:, None]).exp().sum(1)
        if self._k:
            total += self._sum * (self._largest - shift).exp()
        self._k, self._largest, self._sum = self._k + chunk.shape[1], largest, total

    def compute(self) -> Tensor:
        """[N], float64, nats; ValueError before the first `update`."""
        if self._k == 0:
            raise ValueError("log_weights: expected weights by update before, got none")
        # log of the mean apart from the largest: no cancellation with log k
        return -(self._largest + (self._sum / self._k).log())


def importance_weighted_nll(log_weights: Tensor) -> Tensor:
    """-log (1/k sum_i w_i) of each datum: minus the bound L_k on log p(x), tighter with k (Burda et al. 2016, eq. 8).

    In fp64, by the largest weight of each datum: no overflow, no underflow, whatever the nats.

    Args:
        log_weights: [N, k], log p(x|z_i) + log p(z_i) - log q(z_i|x) of k samples of each datum (`gaussian_log_ratio`
            makes the last two); float64, float32, bfloat16 or float16. -inf is a weight of 0.

    Returns:
        [N], float64, nats; +inf where every weight is 0. Not differentiable: a figure, not a loss.

    Raises:
        TypeError, ValueError: not [N, k], k >= 1, of a floating dtype; NaN or +inf in it (says how many).
    """
    stream = ImportanceWeightedNLL()
    stream.update(log_weights)
    return stream.compute()


def bits_per_dim(nats: Nats, dims: int) -> Nats:
    """nats / (dims log 2): a negative log-likelihood of a datum of `dims` values, in bits for each of them.

    For a discrete likelihood (`discretized_gaussian_nll`) as it is; to that of a density of values scaled from 0..255
    to [-1, 1], add log2(127.5).

    Args:
        nats: a number or a tensor.
        dims: values of a datum, C H W of an image, at least 1.
    """
    check_count("dims", dims)
    return nats / (dims * math.log(2))
