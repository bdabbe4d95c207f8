import gzip
import struct

import numpy as np
import pytest

from dgmkern.data.errors import DataError
from dgmkern.data.idx import read_idx


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_reads_what_the_format_describes(tmp_path):
    array = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx_bytes(array)))
    assert np.array_equal(read_idx(path), array)


good = idx_bytes(np.zeros((4, 2, 2), np.uint8))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (gzip.compress(good)[:-9], "not a whole gzip file"),
        (b"not gzip", "not a whole gzip file"),
        (gzip.compress(b""), "not an IDX file.*nothing"),
        (gzip.compress(b"\0\0\x0d\1" + bytes(8)), "not an IDX file of unsigned bytes"),
        (gzip.compress(good[:9]), "header cut short"),
        (gzip.compress(good[:-1]), r"15 bytes of data, its header says \(4, 2, 2\) = 16"),
        (gzip.compress(good + b"\0"), "17 bytes of data"),
    ],
)
def test_anything_but_a_whole_file_is_refused_with_the_reason(tmp_path, raw, message):
    path = tmp_path / "broken.gz"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=message) as raised:
        read_idx(path)
    assert str(path) in str(raised.value)
