"""Shared set-up: poisoned memory, a fresh Inductor cache, two threads."""

import ctypes
import os
import tempfile

# Inductor's cache ignores edits of our Python autograd: every run compiles afresh
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.mkdtemp(prefix="dgmkern-inductor-"))

import pytest
import torch

M_PERTURB = -6


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
