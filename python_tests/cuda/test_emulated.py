"""The CUDA kernels without a GPU: their blocks, threads and phases as plain loops on CPU tensors, in the op tests."""

import os
import pathlib
import subprocess
import sys

import pytest

import dgmkern

TESTS = pathlib.Path(__file__).parents[1]
LIBRARY = pathlib.Path(dgmkern.__file__).parent / "libdgmkern_emulated.so"
# the same Python for every backend, tested on the CPU's kernels
SAME_PYTHON = "not (compiled or export or opcheck or autocast or fork or forward_mode or python_threads or bad_)"

needs_library = pytest.mark.skipif(
    not LIBRARY.exists() and os.environ.get("DGMKERN_REQUIRE_NATIVE") != "1",
    reason="NOT BUILT WITH -DDGM_EMULATE=ON: THE LOGIC OF THE CUDA KERNELS IS NOT TESTED",
)

NOISE = """
import torch, dgmkern
from dgmkern import _library, _native
assert _library.EMULATED
for offset in (0, 1, 4, 7, 2**34 - 30, 2**34 - 32):  # 2^34 elements: the counter passes 2^32
    for n in (1, 5, 1000, 100_003):
        assert (dgmkern.normal(n, 9, offset=offset).numpy() == _native.normal(9, n, offset)).all(), (offset, n)
x, s = torch.randn(3, 5, 4, 6), dgmkern.DiffusionSchedule.cosine(50)
x_t = dgmkern.q_sample(x, torch.tensor([0, 50, -1]), s, seed=1)
assert x_t[0].isfinite().all() and x_t[1:].isnan().all()
"""


DEBUG = """
import torch, dgmkern
x, s = torch.randn(3, 5), dgmkern.DiffusionSchedule.cosine(50)
for wrong in (-1, 50):
    try:
        dgmkern.q_sample(x, torch.tensor([0, wrong, 1]), s, seed=1)
    except IndexError as error:
        assert f"t: expected steps in [0, 50), got {wrong}" in str(error)
    else:
        raise AssertionError(wrong)
dgmkern.ddim_step(x, x, torch.tensor([0, 49, 1]), torch.tensor([-1, 20, 0]), s)
"""


def emulated(*command: str, **more: str) -> None:
    env = {**os.environ, "DGMKERN_BACKEND": "cuda", "DGMKERN_EMULATE": "1", **more}
    run = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, cwd=TESTS.parent)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]


@needs_library
def test_noise_is_bit_for_bit_the_cpus_and_steps_outside_are_nan():
    emulated("-c", NOISE)


@needs_library
def test_debugging_names_a_step_outside_the_schedule():
    emulated("-c", DEBUG, DGMKERN_DEBUG="1")


@needs_library
def test_ops_pass_their_tests():
    emulated("-m", "pytest", "-q", str(TESTS / "ops"), "-k", SAME_PYTHON)


@needs_library
def test_any_size_and_dtype_against_fp64():
    emulated("-m", "perf.gpu_ops", "cpu")
