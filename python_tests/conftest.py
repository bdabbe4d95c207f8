"""Shared set-up: poisoned memory, a fresh Inductor cache, two threads."""

import ctypes
import os
import tempfile

# Inductor's cache ignores edits of our Python autograd: every run compiles afresh
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.mkdtemp(prefix="dgmkern-inductor-"))

import pytest
import torch

M_PERTURB = -6

# Triton's interpreter (python_tests/triton/test_interpreted.py): part of a test's id -> why it does not run there
_SAME_PYTHON = "the same Python for every backend; compiling or checking it takes hundreds of interpreted launches"
_MANY_LAUNCHES = "thousands of interpreted launches of 30 ms; gradients are compared with eager's in fp64 elsewhere"
NOT_INTERPRETED = {
    "from_python_threads": "the interpreter patches Triton while a kernel runs: not from several threads",
    "thread_count": "the interpreter has no threads",
    "instruction_set": "of the C++ kernels",
    "IndexError": "a look at t that only kernels of the CPU take; a Triton kernel gives NaN",
    "is_an_index_error": "a look at t that only kernels of the CPU take; a Triton kernel gives NaN",
    "ValueError-crow_indices": "a look at rows that only kernels of the CPU take; a Triton kernel gives NaN",
    "gradcheck": _MANY_LAUNCHES,
    "opcheck": _SAME_PYTHON,
    "test_compiled": _SAME_PYTHON,
    "test_export": _SAME_PYTHON,
    "any_split_of_a_range": _MANY_LAUNCHES,
    "summed_over_many_samples": _MANY_LAUNCHES,
    "mean_over_many_samples": _MANY_LAUNCHES,
    "bound_tightens_with_k": _MANY_LAUNCHES,
    "difference_of_log_probs": _MANY_LAUNCHES,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    for item in items:
        for part, why in NOT_INTERPRETED.items():
            if part in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=why))


def pytest_configure(config: pytest.Config) -> None:
    # glibc fills fresh memory with 0xFE, a huge number or NaN in every dtype: an unwritten output shows
    # (AddressSanitizer's own malloc does it by the options in .ci/sanitize; test_poison.py looks)
    libc = ctypes.CDLL(None)
    if not libc.mallopt(M_PERTURB, 0x01) and not hasattr(libc, "__asan_init"):
        raise RuntimeError("mallopt(M_PERTURB) failed: outputs would not be poisoned")


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
