"""Shared set-up: poisoned memory, a fresh Inductor cache, two threads."""

import ctypes
import os
import tempfile
from collections.abc import Callable
from types import ModuleType

# Inductor's cache ignores edits of our Python autograd: every run compiles afresh
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.mkdtemp(prefix="dgmkern-inductor-"))

import pytest
import torch
from threadpoolctl import threadpool_limits

from perf import peer_packages

M_PERTURB = -6

# Kernels of a GPU without one, in Triton's interpreter (python_tests/triton) or as plain loops of C++
# (python_tests/cuda): part of a test's id -> why it does not run there
NOT_OF_A_GPU = {
    "instruction_set": "of the C++ kernels of the CPU",
    "index_error": "a look at t that only kernels of the CPU take; one of a GPU gives NaN",
    "IndexError": "a look at t or columns that only kernels of the CPU take; one of a GPU gives NaN",
    "bad_covariances": "a look at matrices that only the CPU takes; on a GPU what is not finite gives NaN",
    "crow_indices.": "a look at the rows that only kernels of the CPU take; one of a GPU gives NaN",
}
_SAME_PYTHON = "the same Python for every backend; compiling or checking it takes hundreds of interpreted launches"
_MANY_LAUNCHES = "thousands of interpreted launches of 30 ms; gradients are compared with eager's in fp64 elsewhere"
NOT_INTERPRETED = {
    "from_python_threads": "the interpreter patches Triton while a kernel runs: not from several threads",
    "thread_count": "the interpreter has no threads",
    "gradcheck": _MANY_LAUNCHES,
    "opcheck": _SAME_PYTHON,
    "test_compiled": _SAME_PYTHON,
    "test_export": _SAME_PYTHON,
    "any_split_of_a_range": _MANY_LAUNCHES,
    "summed_over_many_samples": _MANY_LAUNCHES,
    "mean_over_many_samples": _MANY_LAUNCHES,
    "bound_tightens_with_k": _MANY_LAUNCHES,
    "difference_of_log_probs": _MANY_LAUNCHES,
    "any_threads": "the interpreter has no threads",
    "transforms_and_compilation": _SAME_PYTHON,
    "batches_and_compilation": _SAME_PYTHON,
    "test_frechet.py::test_gradients_of_features": _MANY_LAUNCHES,
    "test_frechet.py::test_gradients[": _MANY_LAUNCHES,
    "test_linalg.py::test_gradients": _MANY_LAUNCHES,
}


def _mend_interpreter() -> None:
    """Triton 3.6 makes loop bounds of arrays of one element, which NumPy 2.4 no longer takes for numbers."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def mended(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = mended


if os.environ.get("TRITON_INTERPRET") == "1":
    _mend_interpreter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skipped = {}
    if os.environ.get("DGMKERN_EMULATE") == "1":
        skipped = NOT_OF_A_GPU
    elif os.environ.get("TRITON_INTERPRET") == "1":
        skipped = NOT_OF_A_GPU | NOT_INTERPRETED
    for item in items:
        for part, why in skipped.items():
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


@pytest.fixture
def one_thread(_reproducible):
    """Of torch, NumPy and SciPy: threads that wait for each other over small tensors take seconds on a busy machine."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def classifier_cache(tmp_path_factory):
    """A cache folder with the classifier of digits, trained once."""
    from dgmkern.features import trained_classifier

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGMKERN_CACHE", str(folder))
        trained_classifier("digits", progress=False)
    return folder


@pytest.fixture
def peer() -> Callable[[str], ModuleType]:
    """Imports a module of another project by its name."""
    if not peer_packages.FOLDER.is_dir():
        assert "DGMKERN_REQUIRE_PEERS" not in os.environ, f"no {peer_packages.FOLDER}: `make test` installs it"
        pytest.skip(f"NOT COMPARED with other projects: no {peer_packages.FOLDER} (`make test` installs it)")
    return peer_packages.peer
