"""The Triton kernels in Triton's interpreter, no GPU needed: the op tests, run on them in processes of their own."""

import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("triton")
TESTS = pathlib.Path(__file__).parents[1]
OLDEST = pathlib.Path(sys.prefix, "triton-3.6")
# what says most about a kernel; conftest.py names the tests that cannot run there
NUMBERS = (
    "errors_stay or drawn_noise or memory_layout or wider_than or incoming_gradient or any_shape or extreme_values"
)
NOISE = """
import sys, numpy as np, torch, dgmkern
from dgmkern import _library, _native
assert _library.INTERPRETED
for offset in (0, 1, 4, 7, 2**34 - 30, 2**34 - 32):  # 2^34 elements: the counter passes 2^32
    for n in (5, 1000, 100_003):
        got, expected = dgmkern.normal(n, 9, offset=offset).numpy(), _native.normal(9, n, offset)
        assert (np.abs(got - expected) <= 2 * np.spacing(np.abs(expected))).all(), (offset, n)
for dtype in (torch.float64, torch.bfloat16, torch.float16):
    assert torch.equal(dgmkern.normal(2400, 8, dtype=dtype), torch.from_numpy(_native.normal(8, 2400)).to(dtype)), dtype
x, s = torch.randn(3, 5, 4, 6), dgmkern.DiffusionSchedule.cosine(50)
last, t = x.contiguous(memory_format=torch.channels_last), torch.tensor([0, 50, -1])
for offset in (0, 3):
    for seed in (-1, 2**63 - 1):
        a, b = (dgmkern.gaussian_rsample(m, m, seed=seed, offset=offset) for m in (x, last))
        assert torch.equal(a, b) and b.is_contiguous(memory_format=torch.channels_last)
x_t = dgmkern.q_sample(x, t, s, seed=1)
assert x_t[0].isfinite().all() and x_t[1:].isnan().all()  # steps outside the schedule
"""


@pytest.fixture(params=["installed", "oldest"])
def environment(request) -> dict[str, str]:
    """Variables for a process that interprets kernels with the Triton installed, or with the oldest one supported."""
    env = {**os.environ, "DGMKERN_BACKEND": "triton", "TRITON_INTERPRET": "1"}
    if request.param == "oldest":
        if not OLDEST.is_dir():
            assert "DGMKERN_REQUIRE_CUDA" not in os.environ, f"no {OLDEST}: `make test` installs it"
            pytest.skip(f"NOT CHECKED on the oldest Triton: no {OLDEST} (`make test` installs it)")
        env["PYTHONPATH"] = os.pathsep.join([str(OLDEST), *filter(None, [env.get("PYTHONPATH")])])
    return env


def interpreted(env: dict[str, str], *command: str) -> None:
    run = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, cwd=TESTS.parent)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]


def test_noise_is_the_cpus_within_2_ulp_in_any_layout_and_steps_outside_are_nan(environment):
    interpreted(environment, "-c", NOISE)


def test_contract_of_the_ops(environment):
    interpreted(environment, "-m", "pytest", "-q", str(TESTS / "ops" / "test_contract.py"), "-k", NUMBERS)


def test_matrices(environment):
    interpreted(environment, "-m", "pytest", "-q", str(TESTS / "triton" / "matrices.py"))


@pytest.mark.slow
def test_the_rest_of_the_contract(environment):
    interpreted(environment, "-m", "pytest", "-q", str(TESTS / "ops" / "test_contract.py"), "-k", f"not ({NUMBERS})")


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        *("noise", "gaussian", "importance", "diffusion", "reverse"),
        *("likelihood", "bound", "multinomial", "normalization", "adversarial", "linalg", "frechet"),
    ],
)
def test_of_a_family(environment, family):
    interpreted(environment, "-m", "pytest", "-q", str(TESTS / "ops" / f"test_{family}.py"))
