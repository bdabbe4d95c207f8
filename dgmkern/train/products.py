"""Products of fp32 matrices by oneDNN."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor


@contextmanager
def fast_products(device: torch.device | None = None) -> Iterator[None]:
    """Inside, products of fp32 matrices on a CPU are made by oneDNN instead of MKL, where that rounds no operand.

    Nothing changes if `device`, where the work is, is another one.

    MKL does not use the vector units of every CPU: of [1024, 784] by [784, 400] it makes 150 GFLOP/s on two cores of an
    EPYC (Zen 5), oneDNN 510. torch hands fp32 products to oneDNN only with leave to round them to bf16, which oneDNN
    takes where there are matrix units for it (AMX); there, nothing is changed. Products of bf16 are as outside.
    """
    elsewhere = device is not None and device.type != "cpu"
    if elsewhere or not _keeps_fp32():
        yield
        return
    with _by_onednn():
        yield


@contextmanager
def _by_onednn() -> Iterator[None]:
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@cache
def _keeps_fp32() -> bool:
    """Whether such products keep all 24 bits of their operands on this machine."""
    if not torch.backends.mkldnn.is_available():
        return False
    with _by_onednn():
        return is_fp32(torch.matmul)


def is_fp32(product: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether `product` of two fp32 matrices rounds no operand: sums of 256 err by 1e-4 then, and by 0.2 in bf16."""
    x = torch.randn((128, 256), generator=torch.Generator().manual_seed(0))
    error = product(x, x.T).double() - x.double() @ x.T.double()
    return error.abs().max().item() < 1e-3
