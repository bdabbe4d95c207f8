"""`make test-sanitize` runs sanitized kernels, and their sanitizers speak up: a silent one would prove nothing.

Each test shows a kernel memory that is not what its tensor says, in a child process, which the sanitizer ends.
"""

import ctypes
import os
import re
import tempfile

import numpy as np
import pytest
import torch

import dgmkern

pytestmark = pytest.mark.sanitized

BLOCK = 4096  # bytes; so few that the kernel runs in the calling thread, the only one a child has
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])


def read(dtype: torch.dtype, first: int, size: int, freed: bool = False) -> tuple[int, str]:
    """Let a kernel read `size` bytes of a block from byte `first` on; exit status and what was reported."""
    with tempfile.TemporaryFile() as report:
        child = os.fork()
        if child == 0:
            status = 77
            try:
                os.dup2(report.fileno(), 2)
                libc = ctypes.CDLL(None)
                libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
                block = libc.malloc(ctypes.c_size_t(BLOCK))
                ctypes.memset(block, 0, BLOCK)
                numbers = ctypes.cast(block + first, ctypes.POINTER(ctypes.c_uint8))
                x = torch.from_numpy(np.ctypeslib.as_array(numbers, (size,))).view(dtype)
                if freed:
                    libc.free(block)
                kl = dgmkern.gaussian_kl(x, x)
                status = 0 if first or not kl.any() else 76
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        report.seek(0)
        return os.waitstatus_to_exitcode(status), report.read().decode()


def test_these_kernels_are_the_sanitized_ones():
    assert dgmkern.build_info()["sanitize"] == "address,undefined,float-cast-overflow"


@DTYPES
def test_reading_all_of_a_block_is_fine(dtype):
    assert read(dtype, 0, BLOCK) == (0, "")


@DTYPES
def test_reading_one_number_past_a_block_is_reported(dtype):
    status, report = read(dtype, 0, BLOCK + dtype.itemsize)
    assert status not in (0, 76, 77)
    assert "ERROR: AddressSanitizer: heap-buffer-overflow" in report
    assert re.search(r"#0 .*/csrc/(cpu|math)/", report)  # by the kernel itself, not by a function that it called


@DTYPES
def test_reading_a_block_that_was_freed_is_reported(dtype):
    status, report = read(dtype, 0, BLOCK, freed=True)
    assert status not in (0, 76, 77)
    assert "ERROR: AddressSanitizer: heap-use-after-free" in report


@DTYPES
def test_reading_numbers_that_are_not_aligned_is_reported(dtype):
    status, report = read(dtype, 1, 2056)  # ends in less than a vector: whole ones of float16 need no alignment
    assert status not in (0, 76, 77)
    assert re.search(r"runtime error: (load of|reference binding to) misaligned address", report)
