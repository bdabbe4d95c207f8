"""Cases of the multinomial: counts dense, integer and sparse (CSR), as a VAE of documents or purchases has them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

import dgmkern
from perf.case import Case, Setting, Variant
from perf.checks import assert_close_to_fp64
from perf.peers import forward_backward, torch_variants

ROWS, VOCABULARY, WORDS = 512, 20_000, 100


def eager(log_probs: Tensor, counts: Tensor) -> Tensor:
    return -(log_probs * counts).sum(1)


def inputs(rows: int, vocabulary: int, device: str, gradients: bool) -> SimpleNamespace:
    """WORDS words a document, each with a count."""
    log_probs = torch.randn(rows, vocabulary, device=device).log_softmax(1)
    counts = torch.zeros(rows, vocabulary, device=device)
    words = torch.randint(0, vocabulary, (rows, WORDS), device=device)
    counts.scatter_add_(1, words, torch.randint(1, 5, words.shape, device=device).float())
    made = SimpleNamespace(log_probs=log_probs, counts=counts, whole=counts.long(), sparse=counts.to_sparse_csr())
    if gradients:
        made.log_probs.requires_grad_()
        made.grad = torch.rand(rows, device=device)
    return made


def check(inputs: SimpleNamespace, nll: Tensor) -> None:
    want = eager(inputs.log_probs.detach().double(), inputs.counts.double())
    assert_close_to_fp64(nll.detach(), want, what="nll", ulps=16.0)


def check_backward(inputs: SimpleNamespace, output: tuple) -> None:
    check(inputs, output[0])
    want = -inputs.grad.double()[:, None] * inputs.counts.double()
    assert_close_to_fp64(output[1][0], want, what="gradient by log_probs", ulps=1.0)


def case(way: str, rows: int, vocabulary: int, setting: Setting) -> Case:
    backward = way == "backward"
    wrap = forward_backward("log_probs", "grad") if backward else lambda run: run
    checked = check_backward if backward else check
    variants = torch_variants(eager, "log_probs counts", random=False, wrap=wrap)
    variants["dgmkern"] = Variant(wrap(lambda i: dgmkern.multinomial_nll(i.log_probs, i.counts)), checked)
    variants["dgmkern int64"] = Variant(wrap(lambda i: dgmkern.multinomial_nll(i.log_probs, i.whole)), checked)
    variants["dgmkern CSR"] = Variant(wrap(lambda i: dgmkern.multinomial_nll(i.log_probs, i.sparse)), checked)
    return Case(
        f"multinomial_nll/{way}/{rows}x{vocabulary}/fp32",
        lambda: inputs(rows, vocabulary, setting.device, backward),
        variants,
        bytes_moved=4 * rows * vocabulary * (4 if backward else 2),
        elements=rows * vocabulary,
    )


def cases(setting: Setting) -> list[Case]:
    return [case(way, ROWS, VOCABULARY, setting) for way in ("forward", "backward")]


def sweeps(setting: Setting) -> dict[str, Callable[[int], Case]]:
    return {"multinomial_nll/forward": lambda n: case("forward", n // 1000, 1000, setting)}
