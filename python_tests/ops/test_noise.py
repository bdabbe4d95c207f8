"""The noise: known answers, the normal transform against mpmath, identical bits everywhere."""

import math
import os
import subprocess
import sys

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dgmkern
from dgmkern import reference

native = pytest.importorskip("dgmkern._native")
LEVELS = ["baseline", "avx2", "avx512"][: ["baseline", "avx2", "avx512"].index(native.best_level()) + 1]

# Random123 1.14, examples/kat_vectors: philox4x32-10
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def exact_normals(words: np.ndarray) -> list[mpmath.mpf]:
    """The four normals of four words, as csrc/math/normal.h defines them, to 30 digits."""
    mpmath.mp.dps = 30
    out = []
    for x, a in ((int(words[0]), int(words[1])), (int(words[2]), int(words[3]))):
        r = mpmath.sqrt(-2 * mpmath.log((x + mpmath.mpf(1) / 2) / 2**32))
        low = a & 0x3FFFFFFF
        y = mpmath.mpf(low - 2**30 if low >= 2**29 else low) / 2**30
        cos, sin = mpmath.cos(mpmath.pi / 2 * y), mpmath.sin(mpmath.pi / 2 * y)
        cos = -cos if a >> 31 else cos
        out += [r * sin, r * cos] if a >> 30 & 1 else [r * cos, r * sin]
    return out


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_known_answers(counter, key, expected):
    assert native.philox(counter, key) == expected


@pytest.mark.parametrize("level", LEVELS)
def test_words_are_philox_of_the_counter_on_every_instruction_set(level):
    assert native.words(0, 1, level=level)[0].tolist() == list(KNOWN[0][2])
    seed, first = 0x299F31D0A4093822, 2**32 - 20  # the high word of the counter changes on the way
    words = native.words(seed, 50, first, level=level)
    for i in range(50):
        counter = ((first + i) & 0xFFFFFFFF, (first + i) >> 32, 0, 0)
        assert tuple(words[i]) == native.philox(counter, (0xA4093822, 0x299F31D0))


def test_reference_philox_is_the_kernels():
    seed = torch.tensor([-3])
    counter = torch.arange(2**32 - 5, 2**32 + 5)
    expected = native.words(2**64 - 3, 10, 2**32 - 5)
    assert np.array_equal(torch.stack(reference.noise.philox(counter, seed), -1).numpy(), expected)


def test_normals_are_within_3_2_ulp_of_their_definition():
    words, z = native.words(11, 5000), native.normal(11, 20000)
    worst = 0.0
    for i in range(5000):
        for lane, exact in enumerate(exact_normals(words[i])):
            got = mpmath.mpf(float(z[4 * i + lane]))
            worst = max(worst, float(abs(got - exact)) / float(np.spacing(np.float32(abs(float(exact))))))
    assert worst < 3.2


def test_reference_normals_are_the_kernels_to_3_2_ulp():
    got, expected = native.normal(4, 100_003, 2), reference.noise.normal([100_003], torch.tensor([4]), 2, torch.float32)
    error = np.abs(got.astype(np.float64) - expected.double().numpy())
    assert (error <= 3.7 * np.spacing(np.abs(expected.numpy())) + 1e-10).all()


@pytest.mark.parametrize("level", LEVELS)
def test_same_bits_on_every_instruction_set(level):
    for offset in (0, 1, 2, 3, 5, 63, 2**34 - 30):  # 2^34 elements: the counter passes 2^32
        assert np.array_equal(native.normal(9, 1000, offset, level=level), native.normal(9, 1000, offset))


@pytest.mark.parametrize("level", LEVELS)
def test_every_op_gives_the_same_bits_with_a_forced_instruction_set(level, tmp_path):
    script = """
import sys, torch, dgmkern
x, logvar = dgmkern.normal((37, 3, 5, 7), 1), dgmkern.normal((37, 3, 5, 7), 2)
s, t = dgmkern.DiffusionSchedule.cosine(50), torch.arange(37)
torch.save([dgmkern.cpu_capability(), dgmkern.normal(1001, 3, offset=5), dgmkern.q_sample(x, t, s, seed=4),
            dgmkern.q_sample(x.bfloat16(), t, s, seed=4), dgmkern.q_sample(x.half(), t, s, seed=4)], sys.argv[1])
"""
    out = tmp_path / "out.pt"
    env = {**os.environ, "DGMKERN_CPU": level}
    subprocess.run([sys.executable, "-c", script, str(out)], check=True, env=env)
    used, *tensors = torch.load(out)
    assert used == level
    x, s, t = dgmkern.normal((37, 3, 5, 7), 1), dgmkern.DiffusionSchedule.cosine(50), torch.arange(37)
    expected = [dgmkern.normal(1001, 3, offset=5)]
    expected += [dgmkern.q_sample(x.to(d), t, s, seed=4) for d in (torch.float32, torch.bfloat16, torch.float16)]
    for a, b in zip(tensors, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("value", ["sse2", "AVX2", "none"])
def test_unknown_forced_instruction_set_is_refused(value):
    env = {**os.environ, "DGMKERN_CPU": value}
    code = "import dgmkern; dgmkern.normal(3, 1)"
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.returncode != 0
    assert f"DGMKERN_CPU: expected baseline, avx2 or avx512, got {value}" in run.stderr


def test_same_seed_same_bits_for_any_thread_count():
    torch.set_num_threads(1)
    one = dgmkern.normal(1_000_003, 6)
    torch.set_num_threads(2)
    assert torch.equal(one, dgmkern.normal(1_000_003, 6))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3000), st.integers(0, 2**40), st.integers(0, 3000), st.integers(-(2**63), 2**63 - 1))
def test_any_split_of_a_range_gives_the_same_numbers(n, offset, cut, seed):
    cut = min(cut, n)
    parts = [dgmkern.normal(cut, seed, offset=offset), dgmkern.normal(n - cut, seed, offset=offset + cut)]
    assert torch.equal(torch.cat(parts), dgmkern.normal(n, seed, offset=offset))


def test_numbers_go_by_logical_order_and_round_from_fp32():
    flat = dgmkern.normal(24, 8)
    assert torch.equal(dgmkern.normal((2, 3, 4), 8).flatten(), flat)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert torch.equal(dgmkern.normal(24, 8, dtype=dtype), flat.to(dtype))
    assert np.array_equal(native.normal(8, 24), flat.numpy())


def test_extremes_of_the_radius_are_finite_and_ordered():
    z = dgmkern.normal(4_000_000, 10)
    assert z.isfinite().all()
    assert 4.5 < z.abs().max() <= 6.7645


def moments_are_normal(z: torch.Tensor, sigmas: float) -> None:
    n = z.numel()
    z = z.double()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((z**power).mean().item() - mean) < sigmas * math.sqrt(variance / n), f"moment {power}"


def tails_are_normal(z: torch.Tensor, sigmas: float) -> None:
    for bound in (0.01, 0.5, 1, 2, 3, 4, 4.5, 5):
        expected = math.erfc(bound / math.sqrt(2)) * z.numel()
        inside = z.abs() >= bound
        assert abs(inside.sum().item() - expected) < sigmas * math.sqrt(expected) + 1, f"|z| >= {bound}"


def ks_distance(z: torch.Tensor) -> float:
    z = z.double().sort().values
    cdf = torch.special.ndtr(z)
    i = torch.arange(z.numel(), dtype=torch.float64)
    return max((cdf - i / z.numel()).max().item(), ((i + 1) / z.numel() - cdf).max().item())


def test_a_million_normals_are_normal():
    z = dgmkern.normal(1_000_000, 2024)
    moments_are_normal(z, 5)
    tails_are_normal(z, 5)
    assert ks_distance(z) < 2.2 / 1000  # p = 1e-4


@pytest.mark.slow
def test_1e8_normals_moments_tails_kolmogorov_smirnov_and_correlations():
    n = 100_000_000
    z = dgmkern.normal(n, 12345)
    moments_are_normal(z[: n // 2], 5)
    moments_are_normal(z[n // 2 :], 5)
    tails_are_normal(z, 5)
    for part in z.split(n // 10):
        assert ks_distance(part) < 2.4 / math.sqrt(part.numel())
    bound = 5.5 / math.sqrt(n / 4)
    lanes = z.view(-1, 4)
    for i in range(4):
        for j in range(i):
            for f in (lambda x: x, torch.square):
                a, b = f(lanes[:, i].double()), f(lanes[:, j].double())
                assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < bound, (i, j)
    for lag in (4, 8, 64, 1024):  # neighbouring counters of one lane
        a, b = lanes[: -lag // 4, 0].double(), lanes[lag // 4 :, 0].double()
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < bound, lag
    for other in (
        dgmkern.normal(n // 4, 12346),
        dgmkern.normal(n // 4, 12345, offset=n),
        dgmkern.normal(n // 4, -12345),
    ):
        pair = torch.stack([z[: n // 4].double(), other.double()])
        assert abs(torch.corrcoef(pair)[0, 1]) < bound


def test_neighbouring_seeds_and_streams_are_uncorrelated():
    z = torch.stack([dgmkern.normal(200_000, seed) for seed in (0, 1, 2, 2**32, 2**32 + 1)]).double()
    off = torch.corrcoef(z) - torch.eye(5)
    assert off.abs().max() < 5 / math.sqrt(200_000)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dgmkern.normal(-1, 0), ValueError, "shape"),
        (lambda: dgmkern.normal(3, 0, dtype=torch.int32), TypeError, "dtype"),
        (lambda: dgmkern.normal(3, 0, offset=-1), ValueError, "offset"),
        (lambda: dgmkern.normal(3, 0, offset=1.5), TypeError, "offset"),
        (lambda: dgmkern.normal(3, 0.5), TypeError, "seed"),
        (lambda: native.normal(0, -1), ValueError, "n: expected"),
        (lambda: native.normal(0, 3, level="sse"), ValueError, "level"),
        (lambda: torch.ops.dgmkern.normal([3], torch.tensor([1, 2]), 0, torch.float32), ValueError, "seed"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_empty_shapes():
    assert dgmkern.normal((0, 3), 1).shape == (0, 3)
    assert dgmkern.normal((), 1).shape == ()
    assert native.normal(1, 0).shape == (0,)
