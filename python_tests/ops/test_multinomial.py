"""What is particular to the multinomial: sparse counts, integers, zero probabilities, indices that lie outside."""

import math

import pytest
import torch
from torch.distributions import Multinomial
from torch.library import opcheck

import dgmkern

OPS = torch.ops.dgmkern
N, V = 5, 40


def log_probs(dtype=torch.float32, n=N, v=V):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, v, generator=generator, dtype=torch.float64).log_softmax(1).to(dtype)


def counts(n=N, v=V):
    """A bag of words: most are 0, row 2 is empty."""
    generator = torch.Generator().manual_seed(2)
    drawn = torch.randint(0, 9, (n, v), generator=generator) * (torch.rand(n, v, generator=generator) < 0.2)
    drawn[2:3] = 0
    return drawn


def csr(dense: torch.Tensor, indices=torch.int64) -> torch.Tensor:
    sparse = dense.to_sparse_csr()
    return torch.sparse_csr_tensor(
        sparse.crow_indices().to(indices), sparse.col_indices().to(indices), sparse.values(), dense.shape
    )


def parts(sparse: torch.Tensor):
    """Clones: torch.compile stumbles over views of a sparse tensor."""
    return sparse.crow_indices().clone(), sparse.col_indices().clone(), sparse.values().clone()


def test_is_torch_distributions_but_for_the_coefficient():
    lp, c = log_probs(torch.float64), counts().double()
    for n in range(N):
        if c[n].sum() == 0:
            continue
        peer = Multinomial(int(c[n].sum()), logits=lp[n]).log_prob(c[n])
        coefficient = torch.lgamma(c[n].sum() + 1) - torch.lgamma(c[n] + 1).sum()
        torch.testing.assert_close(dgmkern.multinomial_nll(lp, c)[n], coefficient - peer)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count_dtype", [None, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
@pytest.mark.parametrize("form", ["dense", "csr", "csr with int32 indices"])
def test_every_form_and_dtype_of_counts(dtype, count_dtype, form):
    lp, c = log_probs(dtype).requires_grad_(), counts().to(count_dtype or dtype)
    given = c if form == "dense" else csr(c, torch.int32 if "int32" in form else torch.int64)
    nll = dgmkern.multinomial_nll(lp, given)
    weight = torch.arange(1.0, N + 1, dtype=nll.dtype)
    (grad,) = torch.autograd.grad(nll, lp, weight)
    tolerance = {"rtol": 1e-14, "atol": 0} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 0}
    torch.testing.assert_close(nll.double(), -(lp.detach().double() * counts()).sum(1), **tolerance)
    assert nll.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(grad.double(), (-weight.double()[:, None] * counts()))
    assert grad.dtype == dtype
    assert not grad.is_sparse


@pytest.mark.parametrize("form", ["dense", "integers", "csr"])
def test_a_zero_count_adds_nothing_even_to_an_impossible_event(form):
    lp, c = log_probs().clone(), counts().float()
    lp[c == 0] = -math.inf
    given = {"dense": c, "integers": c.long(), "csr": csr(c)}[form]
    lp.requires_grad_()
    nll = dgmkern.multinomial_nll(lp, given)
    expected = -torch.where(c == 0, 0.0, c * lp.detach()).sum(1)
    torch.testing.assert_close(nll, expected)
    (grad,) = torch.autograd.grad(nll.sum(), lp)
    assert torch.equal(grad, -c)
    impossible = torch.full((1, 3), -math.inf)
    seen = torch.tensor([[0.0, 2.0, 0.0]])
    assert dgmkern.multinomial_nll(impossible, seen if form == "dense" else csr(seen)).item() == math.inf


def test_columns_in_any_order_and_more_than_once():
    crow, col = torch.tensor([0, 5, 5, 7]), torch.tensor([3, 0, 3, 1, 3, 2, 2])
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], dtype=torch.float64, requires_grad=True)
    dense = torch.tensor([[2.0, 8.0, 0.0, 21.0], [0.0] * 4, [0.0, 0.0, 96.0, 0.0]], dtype=torch.float64)
    lp = log_probs(torch.float64, 3, 4).requires_grad_()
    nll = OPS.multinomial_nll_csr(lp, crow, col, values)
    torch.testing.assert_close(nll, -(lp * dense).sum(1))
    by_lp, by_values = torch.autograd.grad(nll.sum(), (lp, values))
    assert torch.equal(by_lp, -dense)
    torch.testing.assert_close(by_values, -lp.detach()[[0, 0, 0, 0, 0, 2, 2], col])


def test_gradient_reaches_the_values_of_a_sparse_tensor():
    lp = log_probs(torch.float64)
    c = csr(counts().double()).requires_grad_()
    dgmkern.multinomial_nll(lp, c).sum().backward()
    torch.testing.assert_close(c.grad.to_dense(), torch.where(counts() > 0, -lp, 0.0))


@pytest.mark.parametrize("indices", [torch.int64, torch.int32])
def test_sparse_gradcheck_and_gradgradcheck(indices):
    crow, col, values = parts(csr(counts(3, 6).double(), indices))
    args = (log_probs(torch.float64, 3, 6).requires_grad_(), values.detach().requires_grad_())

    def function(lp, values):
        return OPS.multinomial_nll_csr(lp, crow, col, values)

    assert torch.autograd.gradcheck(function, args)
    assert torch.autograd.gradgradcheck(function, args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_opcheck(dtype):
    c = counts().to(dtype)
    lp, grad = log_probs().requires_grad_(), torch.ones(N, requires_grad=True)
    opcheck(OPS.multinomial_nll.default, (lp, c))
    opcheck(OPS.multinomial_nll_backward.default, (grad, lp, c))
    opcheck(OPS.multinomial_nll_csr.default, (lp, *parts(csr(c))))
    opcheck(OPS.multinomial_nll_csr_backward.default, (grad, lp, *parts(csr(c))))


def test_sparse_compiles_whole_with_its_gradient():
    crow, col, values = parts(csr(counts().float()))
    lp = log_probs().requires_grad_()

    def function(lp):
        return OPS.multinomial_nll_csr(lp, crow, col, values)

    got = torch.compile(function, fullgraph=True)(lp)
    assert torch.equal(got, function(lp))
    (grad,) = torch.autograd.grad(got.sum(), lp)
    assert torch.equal(grad, -counts().float())


def test_forward_of_sparse_counts_makes_nothing_dense():
    lp = torch.zeros(64, 20_000)
    sparse = torch.sparse_csr_tensor(torch.arange(65), torch.zeros(64, dtype=torch.int64), torch.ones(64), lp.shape)
    with torch.profiler.profile(profile_memory=True) as profile:
        dgmkern.multinomial_nll(lp, sparse)
    assert max(e.cpu_memory_usage for e in profile.events()) < 10_000


def test_sparse_sums_do_not_depend_on_the_thread_count():
    lp, sparse = log_probs(n=3000, v=300), csr(counts(3000, 300).float())
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        leaf = lp.clone().requires_grad_()
        nll = dgmkern.multinomial_nll(leaf, sparse)
        results.append((nll.detach(), torch.autograd.grad(nll.sum(), leaf)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("shape", [(3, 0), (0, 4), (0, 0)])
def test_empty_shapes(shape):
    lp = torch.zeros(shape, requires_grad=True)
    sparse = torch.sparse_csr_tensor(
        torch.zeros(shape[0] + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0), shape
    )
    for c in (torch.zeros(shape), torch.zeros(shape, dtype=torch.int64), sparse):
        nll = dgmkern.multinomial_nll(lp, c)
        assert torch.equal(nll, torch.zeros(shape[0]))
        assert torch.autograd.grad(nll.sum(), lp)[0].shape == shape


def i64(*numbers):
    return torch.tensor(numbers, dtype=torch.int64)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("crow", "col", "values", "error", "message"),
    [
        (i64(0, 1, 2), i64(0, 4), torch.ones(2), IndexError, "col_indices.*4"),
        (i64(0, 1, 2), i64(-1, 0), torch.ones(2), IndexError, "col_indices.*-1"),
        (i64(0, 1, 2), i64(0, 2**62), torch.ones(2), IndexError, "col_indices"),
        (i64(0, 3, 2), i64(0, 1), torch.ones(2), ValueError, "crow_indices.*never fall"),
        (i64(0, -5, 2), i64(0, 1), torch.ones(2), ValueError, "crow_indices.*never fall"),
        (i64(1, 1, 2), i64(0, 1), torch.ones(2), ValueError, "crow_indices.*begin"),
        (i64(0, 1, 9), i64(0, 1), torch.ones(2), ValueError, "crow_indices.*end with"),
        (i64(0, 2), i64(0, 1), torch.ones(2), ValueError, "crow_indices"),
        (i64(0, 1, 2).float(), i64(0, 1), torch.ones(2), ValueError, "crow_indices"),
        (i64(0, 1, 2), i64(0), torch.ones(2), ValueError, "col_indices"),
        (i64(0, 1, 2), i64(0, 1).int(), torch.ones(2), ValueError, "col_indices"),
        (i64(0, 1, 2), i64(0, 1), torch.ones(2).double(), ValueError, "values"),
        (i64(0, 1, 2), i64(0, 1), torch.ones(1, 2), ValueError, "values"),
    ],
)
def test_bad_indices_are_named_and_never_read_through(crow, col, values, error, message, backward):
    lp, grad = torch.zeros(2, 4), torch.ones(2)
    op, args = (OPS.multinomial_nll_csr_backward, (grad, lp)) if backward else (OPS.multinomial_nll_csr, (lp,))
    with pytest.raises(error, match=message):
        op(*args, crow, col, values)


def test_raw_dense_op_refuses_what_does_not_fit():
    lp = torch.zeros(2, 4)
    for wrong in (
        torch.zeros(2, 3),
        torch.zeros(1, 4),
        torch.zeros(2, 4).double(),
        torch.zeros(2, 4, dtype=torch.int16),
    ):
        with pytest.raises(ValueError, match="counts"):
            OPS.multinomial_nll(lp, wrong)
        with pytest.raises(ValueError, match="counts"):
            OPS.multinomial_nll_backward(torch.ones(2), lp, wrong)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda lp: dgmkern.multinomial_nll(lp, [1.0]), TypeError, "counts"),
        (lambda lp: dgmkern.multinomial_nll(lp, lp[:1]), ValueError, r"counts: .*\(2, 4\).*\(1, 4\)"),
        (lambda lp: dgmkern.multinomial_nll(lp, lp.double()), TypeError, "counts.*float32.*float64"),
        (lambda lp: dgmkern.multinomial_nll(lp, lp.to_sparse_coo()), ValueError, "counts.*sparse_csr.*sparse_coo"),
        (lambda lp: dgmkern.multinomial_nll(lp, lp[:1].to_sparse_csr()), ValueError, "counts"),
        (lambda lp: dgmkern.multinomial_nll(lp.long(), lp), TypeError, "log_probs"),
        (lambda lp: dgmkern.multinomial_nll(lp[0, 0], lp), ValueError, "log_probs"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.zeros(2, 4))
