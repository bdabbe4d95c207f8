"""What every op promises: accuracy in each dtype, layouts, autograd to any order, transforms, compilation."""

import os
import threading
import warnings

import pytest
import torch
from cases import CASES, Case, largest, outputs_and_gradients
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import dgmkern

# Triton's interpreter takes 30 ms for a launch
EXAMPLES = 5 if os.environ.get("TRITON_INTERPRET") == "1" else 25
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EACH = pytest.mark.parametrize("case", CASES, ids=str)
DRAWING = pytest.mark.parametrize("case", [c for c in CASES if c.draws], ids=str)


def inputs_of(case: Case, shape, dtype=torch.float32, spread=1.0, seed=17) -> list[torch.Tensor]:
    if not case.fits(tuple(shape)):
        pytest.skip("no shape for this op")
    return case.make(shape, dtype, spread, seed)


def noise_of(case: Case, x: list[torch.Tensor], seed=5, offset=0) -> dict:
    if not case.draws:
        return {}
    return {"noise": dgmkern.normal(case.noise_shape(x), seed, offset=offset, dtype=x[case.noise_as].dtype)}


@EACH
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize(("shape", "spread"), [((7, 3, 5, 2), 1.0), ((5, 600), 2.0), ((3, 9000), 0.5), ((4,), 3.0)])
def test_errors_stay_below_twice_eagers_forward_and_three_times_backward(case, dtype, shape, spread):
    low = inputs_of(case, shape, dtype, spread)
    exact_in = [x.double() for x in low]
    noise = noise_of(case, low)
    exact_noise = {k: v.double() for k, v in noise.items()}
    exact_out = case.eager(*exact_in, **exact_noise)
    cotangents = [torch.randn(o.shape, dtype=torch.float64).to(dtype) for o in exact_out]
    exact_out, exact_grads = outputs_and_gradients(case.eager, exact_in, exact_noise, cotangents)
    eager_out, eager_grads = outputs_and_gradients(case.eager, low, noise, cotangents)
    ours_out, ours_grads = outputs_and_gradients(case.call, low, noise, cotangents)
    # one rounding of the result, where eager happens to make no error; in fp64 eager is the truth, give or take
    slack = torch.finfo(dtype).eps * (16 if dtype == torch.float64 else 1)
    checked = [(2, *x) for x in zip(ours_out, eager_out, exact_out, strict=True)]
    if not case.ties or dtype.itemsize > 2:
        checked += [(3, *x) for x in zip(ours_grads, eager_grads, exact_grads, strict=True)]
    for factor, ours, eager, exact in checked:
        assert ours.shape == exact.shape
        assert largest(ours - exact) <= factor * largest(eager - exact) + slack * largest(exact), factor


@EACH
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
def test_sums_are_wide_and_everything_else_keeps_its_dtype(case, dtype):
    x = inputs_of(case, (3, 4), dtype)
    for out in case.call(*x, **noise_of(case, x)):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert out.dtype == (dtype if out.dim() == x[0].dim() + (case.samples is not None) else wide)


@DRAWING
@pytest.mark.parametrize("offset", [0, 7])
def test_drawn_noise_is_normal_of_the_seed(case, offset):
    x = inputs_of(case, (6, 3, 4, 5))
    given_out, given_grads = outputs_and_gradients(case.call, x, noise_of(case, x, 5, offset), cotangents_of(case, x))
    drawn = [t.clone().requires_grad_() for t in x]
    outputs = case.call(*drawn, seed=5, offset=offset)
    grads = torch.autograd.grad(outputs, drawn, cotangents_of(case, x), allow_unused=True, materialize_grads=True)
    for a, b in zip([*outputs, *grads], [*given_out, *given_grads[: len(grads)]], strict=True):
        assert torch.equal(a, b)


def cotangents_of(case: Case, x) -> list[torch.Tensor]:
    """Fixed cotangents for the outputs of a case."""
    generator = torch.Generator().manual_seed(3)
    outputs = case.eager(*x, **noise_of(case, x))
    return [torch.randn(o.shape, generator=generator) for o in outputs]


LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "sliced": lambda x: torch.stack([x, x + 1], -1)[..., 0],
    "offset": lambda x: torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape),
}


@EACH
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_do_not_depend_on_the_memory_layout(case, layout):
    x = inputs_of(case, (4, 6, 5, 3))
    laid = [LAYOUTS[layout](t) if t.dim() == 4 else t for t in x]
    how = {"seed": 9} if case.draws else {}
    for expected, got in zip(case.call(*x, **how), case.call(*laid, **how), strict=True):
        if got.dim() == 4:
            if case.sums:
                torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
            else:
                assert torch.equal(got, expected)
            assert got.is_contiguous(memory_format=torch.channels_last) == (layout == "channels_last")
        else:  # sums: another order of additions
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@EACH
def test_channels_last_wider_than_a_block_of_noise(case):
    """Over 16384 channels, more pixels than a chunk, volumes: every branch of the channels_last reader."""
    for shape in ((1, 20000, 1, 2), (2, 3, 40, 50), (2, 1030, 3, 3), (1, 700, 2, 3, 2)):
        x = inputs_of(case, shape)
        last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        laid = [t.contiguous(memory_format=last) if t.dim() == len(shape) else t for t in x]
        how = {"seed": 9, "offset": 5} if case.draws else {}
        for expected, got in zip(case.call(*x, **how), case.call(*laid, **how), strict=True):
            torch.testing.assert_close(got, expected, rtol=2e-6, atol=5e-6 if case.sums else 1e-7)


@EACH
@pytest.mark.parametrize("make", ["expanded", "transposed", "one expanded"])
def test_any_layout_of_the_incoming_gradient(case, make):
    x = inputs_of(case, (4, 6))
    how = noise_of(case, x)
    outputs = case.call(*x, **how)
    if make == "expanded":
        strange = [torch.tensor(0.7).expand(o.shape) for o in outputs]
    elif make == "transposed":
        strange = [torch.randn(o.shape[::-1]).permute(tuple(range(o.dim())[::-1])) for o in outputs]
    else:
        strange = [torch.randn([n if d == 0 else 1 for d, n in enumerate(o.shape)]).expand(o.shape) for o in outputs]
    _, expected = outputs_and_gradients(
        case.call, x, how, [g.clone(memory_format=torch.contiguous_format) for g in strange]
    )
    _, got = outputs_and_gradients(case.call, x, how, strange)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@EACH
@settings(max_examples=EXAMPLES, deadline=None)
@given(shape=st.lists(st.integers(0, 7), min_size=1, max_size=5), seed=st.integers(-(2**63), 2**63 - 1))
def test_any_shape_matches_eager(case, shape, seed):
    assume(case.fits(tuple(shape)))
    x = inputs_of(case, shape)
    noise = noise_of(case, x, seed)
    how = {"seed": seed} if case.draws else {}
    for got, expected in zip(case.call(*x, **how), case.eager(*x, **noise), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5, equal_nan=True)


@EACH
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e30, -1e30])
def test_extreme_values_propagate_as_the_formula_says(case, value):
    for spoiled, like in enumerate(inputs_of(case, (3, 5))):
        x = [t.double() for t in inputs_of(case, (3, 5))]
        x[spoiled][(1, 2)[: like.dim()]] = value
        how = noise_of(case, x)
        exact = case.eager(*x, **how)
        got = case.call(*[t.float() for t in x], **{k: v.float() for k, v in how.items()})
        for a, b in zip(got, exact, strict=True):
            b = b.float()
            compared = ~b.isnan() if spoiled in case.limits else torch.ones_like(b, dtype=torch.bool)
            torch.testing.assert_close(a[compared], b[compared], rtol=1e-5, atol=1e-5, equal_nan=True)


@EACH
@pytest.mark.parametrize("drawn", [False, True])
def test_gradcheck_and_gradgradcheck(case, drawn):
    if drawn and not case.draws:
        pytest.skip("draws nothing")
    x = [t.requires_grad_() for t in inputs_of(case, (3, 4), torch.float64)]
    noise = [] if drawn else [n.requires_grad_() for n in noise_of(case, x, 1).values()]

    def function(*args):
        how = {"seed": 1} if drawn else ({"noise": args[-1]} if noise else {})
        return case.call(*args[: len(x)], **how)

    assert torch.autograd.gradcheck(function, (*x, *noise))
    assert torch.autograd.gradgradcheck(function, (*x, *noise))


def scalar(case: Case, *x):
    how = {"seed": 3} if case.draws else {}
    return sum((o.double() ** 3).sum() for o in case.call(*x, **how)).to(x[0].dtype)


@EACH
def test_func_grad_and_grad_of_grad_match_autograd(case):
    x = inputs_of(case, (3, 4), torch.float64)

    def first(x0):
        return scalar(case, x0, *x[1:])

    def second(x0):
        return (torch.func.grad(first)(x0) ** 2).sum()

    leaf = x[0].clone().requires_grad_()
    (g,) = torch.autograd.grad(first(leaf), leaf, create_graph=True)
    (gg,) = torch.autograd.grad((g**2).sum(), leaf)
    torch.testing.assert_close(torch.func.grad(first)(x[0]), g.detach())
    torch.testing.assert_close(torch.func.grad(second)(x[0]), gg)


@EACH
def test_vmap_and_vmap_of_grad_match_a_loop(case):
    x = [
        torch.stack(pair)
        for pair in zip(*(inputs_of(case, (3, 4), torch.float64, seed=k) for k in (1, 2)), strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that its generic batching rule is slow
        got = torch.vmap(lambda *x: case.call(*x, **({"seed": 3} if case.draws else {})))(*x)
        got_grad = torch.vmap(torch.func.grad(lambda *x: scalar(case, *x)))(*x)
    for i in range(2):
        one = [t[i] for t in x]
        for a, b in zip(got, case.call(*one, **({"seed": 3} if case.draws else {})), strict=True):
            torch.testing.assert_close(a[i], b)
        torch.testing.assert_close(got_grad[i], torch.func.grad(lambda *x: scalar(case, *x))(*one))


@EACH
def test_forward_mode_raises_rather_than_dropping_tangents(case):
    x = inputs_of(case, (3, 4))
    with pytest.raises(NotImplementedError, match="forward mode"):
        torch.func.jvp(lambda x0: case.call(x0, *x[1:], **({"seed": 3} if case.draws else {})), (x[0],), (x[0],))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x[0], x[0])
        with pytest.raises(NotImplementedError, match="forward mode"):
            case.call(dual, *x[1:], **({"seed": 3} if case.draws else {}))


@EACH
def test_compiled_whole_equals_eager_with_gradients_and_transforms(case):
    x = inputs_of(case, (3, 4))

    def function(*x):
        return case.call(*x, **({"seed": 8} if case.draws and not case.generates else {}))

    def of_grad(*x):
        return torch.func.grad(lambda x0: scalar(case, x0, *x[1:]))(x[0])

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True)
    torch.manual_seed(8)
    expected, expected_grads = outputs_and_gradients(function, x, {}, cotangents_of(case, x))
    torch.manual_seed(8)
    got, got_grads = outputs_and_gradients(compiled, x, {}, cotangents_of(case, x))
    for i, (a, b) in enumerate(zip([*got_grads, *got], [*expected_grads, *expected], strict=True)):
        loose = {"rtol": 1e-5, "atol": 1e-6} if i in case.by_reference else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(a, b, **loose)
    torch.testing.assert_close(torch.compile(of_grad, fullgraph=True)(*x), of_grad(*x))


@EACH
def test_export_keeps_the_op(case):
    class Module(torch.nn.Module):
        def forward(self, *x):
            return case.call(*x, **({"seed": 3} if case.draws else {}))

    x = tuple(inputs_of(case, (3, 4)))
    program = torch.export.export(Module(), x)
    assert any("dgmkern" in str(node.target) for node in program.graph.nodes)
    for a, b in zip(program.module()(*x), Module()(*x), strict=True):
        assert torch.equal(a, b)


@EACH
def test_autocast_leaves_the_dtype_of_the_inputs(case):
    x = inputs_of(case, (3, 4))
    how = {"seed": 3} if case.draws else {}
    with torch.autocast("cpu", torch.bfloat16):
        inside = case.call(*x, **how)
    for a, b in zip(inside, case.call(*x, **how), strict=True):
        assert torch.equal(a, b)


@DRAWING
def test_same_seed_same_bits_for_any_thread_count(case):
    x = inputs_of(case, (33, 5000))
    torch.set_num_threads(1)
    one = outputs_and_gradients(lambda *x: case.call(*x, seed=3), x, {}, cotangents_of(case, x))
    torch.set_num_threads(2)
    two = outputs_and_gradients(lambda *x: case.call(*x, seed=3), x, {}, cotangents_of(case, x))
    for a, b in zip([*one[0], *one[1]], [*two[0], *two[1]], strict=True):
        assert torch.equal(a, b)


@EACH
def test_sums_do_not_depend_on_the_thread_count(case):
    for shape in ((3, 100_000), (5000, 20), (2, 513)):
        x = inputs_of(case, shape)
        how = {"seed": 3} if case.draws else {}
        torch.set_num_threads(1)
        one = case.call(*x, **how)
        torch.set_num_threads(2)
        for a, b in zip(one, case.call(*x, **how), strict=True):
            assert torch.equal(a, b)


@DRAWING
def test_ranks_that_split_a_batch_draw_what_one_process_draws(case):
    x = inputs_of(case, (8, 3, 5))
    if not case.splits:
        pytest.skip("a case whose steps go by the sample number: see the family's own test")
    whole = case.call(*x, seed=3)
    each = 15 * (case.samples or 1)
    for rank in range(4):
        part = case.call(*[t[2 * rank : 2 * rank + 2] for t in x], seed=3, offset=2 * rank * each)
        for a, b in zip(part, whole, strict=True):
            assert torch.equal(a, b[2 * rank : 2 * rank + 2])


@DRAWING
def test_concurrent_calls_from_python_threads(case):
    x = inputs_of(case, (64, 500))
    expected = case.call(*x, seed=3)
    wrong = []

    def work():
        for _ in range(20):
            if not all(torch.equal(a, b) for a, b in zip(case.call(*x, seed=3), expected, strict=True)):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@DRAWING
@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"noise": lambda noise: noise[:, :-1]}, ValueError),
        ({"noise": lambda noise: noise.double()}, TypeError),
        ({"noise": lambda noise: noise.to("meta")}, ValueError),
        ({"noise": lambda noise: 1.0}, TypeError),
        ({"noise": lambda noise: noise, "seed": 1}, ValueError),
        ({"seed": 1, "generator": torch.Generator()}, ValueError),
        ({"seed": 1.5}, TypeError),
        ({"seed": 1, "offset": -1}, ValueError),
        ({"seed": 1, "offset": 1.0}, TypeError),
    ],
)
def test_bad_noise_arguments_are_named(case, how, error):
    if "generator" in how and not case.generates:
        pytest.skip("takes no generator")
    x = inputs_of(case, (3, 4))
    how = {name: value(**noise_of(case, x)) if name == "noise" else value for name, value in how.items()}
    with pytest.raises(error, match="|".join(how)):
        case.call(*x, **how)


@EACH
def test_bad_inputs_are_refused_before_any_work(case):
    state = torch.get_rng_state()
    good = inputs_of(case, (3, 4))
    for i in range(len(good)):
        bad = [good[i].to(torch.complex64 if i in case.integers else torch.int32), good[i].tolist()]
        bad += [good[i].to("meta")] if i > 0 else []
        bad += [good[i][:2]] if i > 0 and case.same_shape else []
        bad += [good[i].double()] if i > 0 and case.same_dtype else []
        for wrong in bad:
            with pytest.raises((TypeError, ValueError), match="expected"):
                case.call(*good[:i], wrong, *good[i + 1 :])
    assert torch.equal(state, torch.get_rng_state())
