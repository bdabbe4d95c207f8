"""The commands that made a record."""

import shlex
import sys
from collections.abc import Sequence
from typing import Any


def commands(record: dict[str, Any], script: str, argv: Sequence[str] | None = None) -> list[str]:
    """Those that `record` names, then the present one: perf.quality.<script> with `argv`, by default the process's."""
    present = shlex.join(["python", "-m", f"perf.quality.{script}", *(sys.argv[1:] if argv is None else argv)])
    return [*(command for command in record.get("commands", []) if command != present), present]
