"""Progress bars that do not flood a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(iterable: Iterable | None = None, **options: Any) -> tqdm:
    """tqdm on stderr: redrawn 5 times a second in a terminal, a line every 10 seconds elsewhere."""
    return tqdm(iterable, dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 10.0, **options)
