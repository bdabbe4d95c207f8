"""One thread: these tensors are small, and threads that wait for each other on a busy machine take seconds."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_reproducible):
    torch.set_num_threads(1)
