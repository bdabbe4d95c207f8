"""Files that are whole or absent: written beside, then renamed."""

import os
import re
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    The data is on the disk before the rename, and the rename before this returns, so that a crash or a power cut at
    any moment leaves the old file or the new one. If `write` fails, nothing is left behind.
    """
    # keeps the suffix, from which some writers derive the format
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_temporary(path: Path) -> bool:
    """Whether this is what `write_atomically` leaves behind if it is killed."""
    return re.fullmatch(r"\..+\.\d+\.tmp(\.\w+)?", path.name) is not None


def write_text_atomically(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
