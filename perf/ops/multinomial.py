"""Cases of the multinomial: counts dense, integer and sparse (CSR), as a VAE of documents or purchases has them."""

from __future__ import annotations

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


def inputs(device: str, gradients: bool) -> SimpleNamespace:
    """WORDS words a document, each with a count."""
    log_probs = torch.randn(ROWS, VOCABULARY, device=device).log_softmax(1)
    counts = torch.zeros(ROWS, VOCABULARY, device=device)
    words = torch.randint(0, VOCABULARY, (ROWS, WORDS), device=device)
    counts.scatter_add_(1, words, torch.randint(1, 5, words.shape, device=device).float())
    made = SimpleNamespace(log_probs=log_probs, counts=counts, whole=counts.long(), sparse=counts.to_sparse_csr())
    if gradients:
        made.log_probs.requires_grad_()
        made.grad = torch.rand(ROWS, device=device)
    return made


def check(inputs: SimpleNamespace, nll: Tensor) -> None:
    want = eager(inputs.log_probs.detach().double(), inputs.counts.double())
    assert_close_to_fp64(nll.detach(), want, what="nll", ulps=16.0)


def check_backward(inputs: SimpleNamespace, output: tuple) -> None:
    check(inputs, output[0])
    want = -inputs.grad.double()[:, None] * inputs.counts.double()
    assert_close_to_fp64(output[1][0], want, what="gradient by log_probs", ulps=1.0)


def cases(setting: Setting) -> list[Case]:
    def case(way: str) -> Case:
        backward = way == "backward"
        wrap = forward_backward("log_probs", "grad") if backward else lambda run: run
        checked = check_backward if backward else check
        variants = torch_variants(eager, "log_probs counts", random=False, wrap=wrap)
        variants["dgmkern"] = Variant(wrap(lambda i: dgmkern.multinomial_nll(i.log_probs, i.counts)), checked)
        variants["dgmkern int64"] = Variant(wrap(lambda i: dgmkern.multinomial_nll(i.log_probs, i.whole)), checked)
        variants["dgmkern CSR"] = Variant(wrap(lambda i: dgmkern.multinomial_nll(i.log_probs, i.sparse)), checked)
        return Case(
            f"multinomial_nll/{way}/{ROWS}x{VOCABULARY}/fp32",
            lambda: inputs(setting.device, backward),
            variants,
            bytes_moved=4 * ROWS * VOCABULARY * (4 if backward else 2),
            elements=ROWS * VOCABULARY,
        )

    return [case("forward"), case("backward")]
