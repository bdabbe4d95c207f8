"""Matrix square roots and the nuclear norm."""

import numpy as np
import pytest
import scipy.linalg
import torch
from instruction_sets import EACH_LEVEL, run_on
from torch.autograd import gradcheck, gradgradcheck

import dgmkern

OPS = torch.ops.dgmkern


def psd(values, seed=0) -> torch.Tensor:
    """A symmetric matrix with these eigenvalues."""
    values = torch.as_tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
    return symmetric((q * values) @ q.mT)


def symmetric(x: torch.Tensor) -> torch.Tensor:
    return (x + x.mT) / 2


SPECTRA = {
    "well": np.linspace(0.5, 2, 6),
    "repeated": [1.0, 1.0, 1.0, 2.0, 2.0, 0.5],
    "geometric": np.geomspace(1, 1e-4, 6),
}


@pytest.mark.parametrize("function", [dgmkern.sqrtm, dgmkern.inv_sqrtm])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_gradients_of_roots(function, spectrum):
    a = psd(SPECTRA[spectrum]).requires_grad_()
    assert gradcheck(lambda a: function(symmetric(a)), a, rtol=1e-4)
    assert gradgradcheck(lambda a: function(symmetric(a)), a, rtol=1e-3)


def test_gradients_of_the_identity_and_of_a_batch():
    for a in (torch.eye(4).double(), torch.stack([psd([1.0, 2.0, 3.0], s) for s in range(2)])):
        a.requires_grad_()
        for function in (dgmkern.sqrtm, dgmkern.inv_sqrtm):
            assert gradcheck(lambda a, function=function: function(symmetric(a)), a)
            assert gradgradcheck(lambda a, function=function: function(symmetric(a)), a)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_gradients_where_the_rank_is_short_are_those_along_matrices_of_that_rank(rank):
    b = torch.randn(5, rank, dtype=torch.float64).requires_grad_()
    weight = symmetric(torch.randn(5, 5, dtype=torch.float64))
    for function, power in ((dgmkern.sqrtm, -0.5), (dgmkern.inv_sqrtm, -1.5)):
        values, vectors = torch.linalg.eigh(b.mT @ b)
        closed = b @ (vectors * values**power) @ vectors.mT @ b.mT
        got = function(b @ b.mT)
        torch.testing.assert_close(got, closed, rtol=1e-7, atol=1e-7)
        grads = [torch.autograd.grad((r * weight).sum(), b)[0] for r in (got, closed)]
        torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6)


def test_roots_against_scipy_in_both_dtypes():
    for d in (1, 2, 17, 64):
        a = psd(np.linspace(0.1, 3, d), d)
        root, inverse = dgmkern.sqrtm(a), dgmkern.inv_sqrtm(a)
        torch.testing.assert_close(root, torch.from_numpy(scipy.linalg.sqrtm(a.numpy()).real), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(root @ inverse, torch.eye(d).double(), rtol=0, atol=1e-12)
        low = dgmkern.sqrtm(a.float())
        assert low.dtype == torch.float32
        assert (low.double() - dgmkern.sqrtm(a.float().double())).abs().max() <= 1e-7 * low.abs().max()
        assert torch.equal(root, root.mT)


def test_the_inverse_root_of_a_singular_matrix_is_the_pseudo_inverse():
    a = psd([4.0, 1.0, 0.25, 0.0, 0.0])
    want = torch.linalg.pinv(dgmkern.sqrtm(a), rtol=1e-6)
    torch.testing.assert_close(dgmkern.inv_sqrtm(a), want, rtol=1e-9, atol=1e-9)


SHAPES = [(1, 1), (3, 3), (5, 3), (3, 5), (33, 33), (64, 64), (100, 100), (200, 70), (70, 513), (257, 255)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nuclear_norm_against_lapack(shape):
    b = torch.randn(shape, dtype=torch.float64)
    want = torch.linalg.svdvals(b).sum()
    torch.testing.assert_close(dgmkern.nuclear_norm(b), want, rtol=4e-15, atol=0)
    torch.testing.assert_close(
        dgmkern.nuclear_norm(b.float()), torch.linalg.svdvals(b.float().double()).sum(), rtol=4e-15, atol=0
    )


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_nuclear_norm_of_large_and_small_numbers(scale):
    b = torch.randn(50, 40, dtype=torch.float64)
    torch.testing.assert_close(dgmkern.nuclear_norm(b * scale), dgmkern.nuclear_norm(b) * scale, rtol=1e-13, atol=0)


def special() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    thin = torch.randn(60, 7, generator=generator, dtype=torch.float64)
    holes = torch.randn(48, 48, generator=generator, dtype=torch.float64)
    holes[5] = holes[:, 9] = 0
    return {
        "zero": torch.zeros(40, 40).double(),
        "identity": torch.eye(65).double(),
        "one number": torch.nn.functional.pad(torch.tensor([[3.0]]).double(), (50, 9, 20, 9)),
        "ones": torch.ones(70, 70).double(),
        "low rank": thin @ thin.mT,
        "holes": holes,
        "squares that vanish": torch.tensor([[1, 0, 0], [0, 7.6e-103, 6e-107], [0, 0, 7.4e-103]], dtype=torch.float64),
        "shifted": torch.eye(66).double().roll(1, 0),
        "bidiagonal without a diagonal": torch.diag(torch.ones(63).double(), 1),
        "diagonal with zeros": torch.diag((torch.arange(70) % 3).double()),
        "graded": torch.diag(torch.logspace(0, -40, 70, dtype=torch.float64)),
        "graded upwards": holes * torch.logspace(-20, 0, 48, dtype=torch.float64),
        "graded both ways": torch.logspace(0, -12, 48, dtype=torch.float64)[:, None] * holes.abs().sqrt(),
        "Wilkinson": torch.diag((torch.arange(75) - 37).abs().double()) + torch.diag(torch.ones(74).double(), 1),
        "cluster": torch.eye(80).double() + 1e-9 * torch.randn(80, 80, generator=generator, dtype=torch.float64),
        "repeated": torch.kron(torch.eye(10).double(), torch.tensor([[1.0, 2.0], [0.0, 1.0]]).double()),
    }


@pytest.mark.parametrize("name", special())
def test_nuclear_norm_of_special_matrices(name):
    b = special()[name]
    want = torch.linalg.svdvals(b).sum()
    torch.testing.assert_close(dgmkern.nuclear_norm(b), want, rtol=4e-14, atol=1e-15)


def test_nuclear_norm_of_bidiagonals_of_any_scales():
    generator = np.random.default_rng(0)
    for _ in range(2000):
        n, scale = generator.integers(1, 90), generator.choice([0, 1, 5, 20, 100, 150, 300])
        b = np.diag(10.0 ** (-scale * generator.random(n)) * generator.choice([-1, 0, 1], n, p=[0.45, 0.1, 0.45]))
        b += np.diag(10.0 ** (-scale * generator.random(n - 1)) * generator.choice([0, 1], n - 1, p=[0.1, 0.9]), 1)
        b = torch.from_numpy(b)
        torch.testing.assert_close(dgmkern.nuclear_norm(b), torch.linalg.svdvals(b).sum(), rtol=4e-14, atol=0)


def test_nuclear_norm_of_what_is_not_finite_is_nan_and_of_nothing_zero():
    b = torch.randn(3, 5, 5, dtype=torch.float64)
    b[1, 2, 3] = torch.nan
    b[2, 0, 0] = torch.inf
    norms = dgmkern.nuclear_norm(b)
    assert norms[0].isfinite()
    assert norms[1:].isnan().all()
    assert dgmkern.nuclear_norm(torch.zeros(2, 0, 5)).tolist() == [0, 0]
    assert dgmkern.nuclear_norm(torch.zeros(0, 4, 5)).shape == (0,)


def test_nuclear_norm_has_the_same_bits_for_any_threads_batch_and_strides():
    b = torch.randn(3, 150, 130, dtype=torch.float64)
    together = dgmkern.nuclear_norm(b)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert torch.equal(together, torch.stack([dgmkern.nuclear_norm(x) for x in b]))
    strided = b.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(dgmkern.nuclear_norm(strided), together)


@EACH_LEVEL
def test_every_instruction_set_is_accurate(level):
    code = """
import torch, dgmkern
torch.manual_seed(0)
for shape in ((5, 3), (70, 70), (40, 131)):
    b = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(dgmkern.nuclear_norm(b), torch.linalg.svdvals(b).sum(), rtol=4e-15, atol=0)
    x, y = torch.randn(2, 99, shape[1], dtype=torch.float64)
    want = torch.linalg.svdvals(x @ y.mT).sum()
    torch.testing.assert_close(dgmkern.trace_sqrtm_product(x.mT @ x, y.mT @ y), want, rtol=1e-12, atol=0)
"""
    run_on(level, code)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (2, 3, 4)], ids=str)
def test_gradients_of_the_nuclear_norm(shape):
    b = torch.randn(shape, dtype=torch.float64).requires_grad_()
    assert gradcheck(dgmkern.nuclear_norm, b)
    assert gradgradcheck(dgmkern.nuclear_norm, b)
    q = torch.autograd.grad(dgmkern.nuclear_norm(b).sum(), b)[0]
    assert (torch.linalg.matrix_norm(q, 2) <= 1 + 1e-12).all()


def test_a_third_derivative_of_the_nuclear_norm_raises():
    b = torch.randn(3, 3, dtype=torch.float64).requires_grad_()
    grad = torch.autograd.grad(dgmkern.nuclear_norm(b), b, create_graph=True)[0]
    second = torch.autograd.grad(grad.square().sum(), b, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="two derivatives"):
        torch.autograd.grad(second.sum(), b)


def test_transforms_and_compilation():
    a = psd(np.linspace(0.5, 2, 5))
    for function in (dgmkern.sqrtm, dgmkern.inv_sqrtm, dgmkern.nuclear_norm):

        def loss(x, function=function):
            return function(symmetric(x)).square().sum()

        expected = torch.autograd.functional.jacobian(loss, a)
        torch.testing.assert_close(torch.func.grad(loss)(a), expected)
        torch.testing.assert_close(
            torch.func.jacrev(torch.func.grad(loss))(a), torch.autograd.functional.hessian(loss, a)
        )
        compiled = torch.compile(loss, fullgraph=True)
        x = a.clone().requires_grad_()
        torch.testing.assert_close(torch.autograd.grad(compiled(x), x)[0], expected)
        torch.testing.assert_close(torch.compile(torch.func.grad(loss), fullgraph=True)(a), expected)


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("sqrtm", lambda a: (a, 1e-12)),
        ("sqrtm_backward", lambda a: (torch.randn_like(a), *OPS.sqrtm(a.detach(), 1e-12))),
        ("inverse_root", lambda a: OPS.sqrtm(a.detach(), 1e-12)),
        ("nuclear_norm", lambda a: (a,)),
        ("polar_factor", lambda a: (a,)),
        ("polar_factor_backward", lambda a: (torch.randn_like(a), a)),
    ],
)
def test_opcheck(op, args):
    a = psd(np.linspace(0.5, 2, 4)).requires_grad_()
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(getattr(OPS, op).default, args(a), test_utils=tests)


@pytest.mark.parametrize("function", [dgmkern.sqrtm, dgmkern.inv_sqrtm])
def test_bad_input_is_named(function):
    good = psd([1.0, 2.0, 3.0])
    for bad, error, message in (
        ("x", TypeError, "a: expected a tensor, got str"),
        (good.half(), TypeError, "a: expected dtype float64 or float32"),
        (good[0], ValueError, r"a: expected a matrix \[..., M, N\], got \(3,\)"),
        (good[:2], ValueError, r"a: expected a square matrix"),
        (good * torch.nan, ValueError, "a: expected finite numbers, got 9 that are not"),
        (good + torch.tensor([[0, 1e-3, 0], [0] * 3, [0] * 3]), ValueError, "differs from its transpose by 0.001"),
        (psd([1.0, 2.0, -1e-6]), ValueError, "eigenvalues from -1e-06 to 2 "),
    ):
        with pytest.raises(error, match=message):
            function(bad)
    function(psd([1.0, 2.0, -1e-17]))
