"""Products of fp32 matrices by oneDNN."""

import pytest
import torch

from dgmkern.train import products
from dgmkern.train.products import fast_products, is_fp32


def setting():
    return torch.backends.mkldnn.matmul.fp32_precision


def test_products_are_exact_to_fp32_and_the_setting_comes_back():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(96, 500, generator=generator), torch.randn(500, 64, generator=generator)
    want, before = x.double() @ y.double(), setting()
    usual = (x @ y - want).square().mean()
    with fast_products():
        got = x @ y
    assert setting() == before
    assert (got - want).square().mean() <= 16 * usual  # one rounding to bf16 makes it 1e7 times as large


def test_the_setting_comes_back_after_an_exception():
    before = setting()
    with pytest.raises(KeyError), fast_products():
        raise KeyError
    assert setting() == before


@pytest.mark.parametrize("keeps", [True, False])
def test_nothing_changes_where_operands_would_be_rounded(monkeypatch, keeps):
    monkeypatch.setattr(products, "_keeps_fp32", lambda: keeps)
    before = setting()
    with fast_products():
        assert setting() == ("bf16" if keeps else before)
        with fast_products():
            pass
        assert setting() == ("bf16" if keeps else before)


def test_the_probe_tells_rounded_operands():
    assert is_fp32(torch.matmul)
    assert not is_fp32(lambda x, y: (x.bfloat16() @ y.bfloat16()).float())
    assert not is_fp32(lambda x, y: x @ (y.view(torch.int32) & ~0x1FFF).view(torch.float32))  # TF32's 10 bits


def test_work_elsewhere_changes_nothing():
    before = setting()
    with fast_products(torch.device("cuda", 0)):
        assert setting() == before
