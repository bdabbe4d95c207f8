"""One thread: these tensors are small, and threads that wait for each other on a busy machine take seconds."""

import pytest
import torch
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def _one_thread(_reproducible):
    torch.set_num_threads(1)
    with threadpool_limits(1):  # NumPy's and SciPy's
        yield
