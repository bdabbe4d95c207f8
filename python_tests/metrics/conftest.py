"""One thread: these tensors are small, and threads that wait for each other on a busy machine take seconds."""

import os
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from threadpoolctl import threadpool_limits

from perf import peer_packages


@pytest.fixture(autouse=True)
def _one_thread(_reproducible):
    torch.set_num_threads(1)
    with threadpool_limits(1):  # NumPy's and SciPy's
        yield


@pytest.fixture
def peer() -> Callable[[str], ModuleType]:
    """Imports a module of another project by its name."""
    if not peer_packages.FOLDER.is_dir():
        assert "DGMKERN_REQUIRE_PEERS" not in os.environ, f"no {peer_packages.FOLDER}: `make test` installs it"
        pytest.skip(f"NOT COMPARED with other projects: no {peer_packages.FOLDER} (`make test` installs it)")
    return peer_packages.peer
