"""Negative log-likelihoods per sample: Bernoulli, Gaussian, and a Gaussian discretized to 256 levels."""

from torch import Tensor

from .. import _library, reference
from .._library import call
from ..reference.gaussian import compute_dtype
from ..reference.layout import empty_as
from ._arguments import check_alike, check_batch


def _sums(x, *_):
    return x.new_empty(x.shape[:1], dtype=compute_dtype(x))


_bernoulli_op = _library.define(
    "bernoulli_nll(Tensor logits, Tensor x) -> Tensor", reference.likelihood.bernoulli_nll, _sums
)
_bernoulli = _library.differentiable(
    _bernoulli_op,
    _library.define(
        "bernoulli_nll_backward(Tensor grad, Tensor logits, Tensor x) -> Tensor",
        reference.likelihood.bernoulli_nll_backward,
        lambda grad, logits, x: empty_as(logits),
    ),
    by=("logits",),
)
_gaussian_op = _library.define(
    "gaussian_nll(Tensor x, Tensor mean, Tensor logvar) -> Tensor", reference.likelihood.gaussian_nll, _sums
)
_gaussian = _library.differentiable(
    _gaussian_op,
    _library.define(
        "gaussian_nll_backward(Tensor grad, Tensor x, Tensor mean, Tensor logvar) -> (Tensor, Tensor)",
        reference.likelihood.gaussian_nll_backward,
        lambda grad, x, mean, logvar: (empty_as(x), empty_as(x)),
    ),
    by=("mean", "logvar"),
    minus={"x": "mean"},
)
_discretized_op = _library.define(
    "discretized_gaussian_nll(Tensor x, Tensor mean, Tensor log_scale) -> Tensor",
    reference.likelihood.discretized_gaussian_nll,
    _sums,
)
_discretized = _library.differentiable(
    _discretized_op,
    _library.define(
        "discretized_gaussian_nll_backward(Tensor grad, Tensor x, Tensor mean, Tensor log_scale) -> (Tensor, Tensor)",
        reference.likelihood.discretized_gaussian_nll_backward,
        lambda grad, x, mean, log_scale: (empty_as(x), empty_as(x)),
    ),
    by=("mean", "log_scale"),
    minus={"x": "mean"},
)


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """Negative log-likelihood in nats of Bernoulli pixels, summed per sample: the reconstruction term of a VAE.

    nll_n = sum_d softplus(l) - x l = -sum_d x log sigmoid(l) + (1 - x) log sigmoid(-l) (Kingma & Welling 2014,
    appendix C.1), from logits, so that nothing overflows and no digit is lost where the model is sure and right.
    Differentiable any number of times by both: sigmoid(l) - x and -l.

    Args:
        logits: [N, ...], float64, float32, bfloat16 or float16; contiguous and channels_last are read in place.
        x: like logits (same shape, dtype and device); targets in [0, 1], soft ones too. Not checked per element.

    Returns:
        [N], float32 (float64 for float64). Infinite logits give what the formula gives, as
        torch.nn.functional.binary_cross_entropy_with_logits does: inf, or NaN where inf meets a weight of 0.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device.
    """
    check_batch("logits", logits)
    check_alike("x", x, "logits", logits)
    return call(_bernoulli_op, _bernoulli, logits, x)


def gaussian_nll(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Negative log-likelihood in nats of x under N(mean, e^logvar), summed per sample.

    nll_n = sum_d (log 2 pi + logvar + (x - mean)^2 e^-logvar) / 2 (Kingma & Welling 2014, appendix C.2), constant
    included. Differentiable any number of times by all three.

    Args:
        x: [N, ...], float64, float32, bfloat16 or float16; contiguous and channels_last are read in place.
        mean, logvar: like x (same shape, dtype and device); logvar is log sigma^2. A shared one goes in expanded, as
            `logvar.expand_as(x)`: its gradient is then summed as it should be; it is copied once.

    Returns:
        [N], float32 (float64 for float64).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device.
    """
    check_batch("x", x)
    check_alike("mean", mean, "x", x)
    check_alike("logvar", logvar, "x", x)
    return call(_gaussian_op, _gaussian, x, mean, logvar)


def discretized_gaussian_nll(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Negative log-likelihood in nats of 8-bit images under a discretized Gaussian, summed per sample.

    nll_n = -sum_d log(Phi((x + 1/255 - mean) / s) - Phi((x - 1/255 - mean) / s)), s = e^log_scale, the first term 1 for
    x > 0.999 and the second 0 for x < -0.999 (Ho et al. 2020, eq. 13). Phi is the exact distribution function of
    N(0, 1), not the tanh approximation of other code, and p is never clamped: the relative error of the nll stays
    below 1e-6 (1e-14 for float64) far out in the tails, for scales far below and far above a level. (Where a bin holds
    nearly all the mass, errors of 1 / s count a^2 times, a being the distance of the bin's end in units of s.)
    Differentiable any number of times by all three; the gradients are finite wherever the nll is.

    Args:
        x: [N, ...], pixels in [-1, 1] in steps of 2 / 255 (other numbers count as the middle of a bin of that width);
            float64, float32, bfloat16 or float16. bfloat16 cannot tell such levels apart: give float32.
        mean, log_scale: like x (same shape, dtype and device); log_scale is log sigma, half a log-variance.

    Returns:
        [N], float32 (float64 for float64).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device.
    """
    check_batch("x", x)
    check_alike("mean", mean, "x", x)
    check_alike("log_scale", log_scale, "x", x)
    return call(_discretized_op, _discretized, x, mean, log_scale)
