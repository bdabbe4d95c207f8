"""Command lines to dataclasses, and errors in one line."""

import contextlib
import io
import re
import sys
from typing import Any

import tyro


class UsageError(ValueError):
    """A command line that does not parse."""


def parse(command: Any, **options: Any) -> Any:
    """tyro.cli, with the box that it draws around a complaint made one line, as all errors of this command are."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(command, **options)
    except SystemExit as stop:
        if stop.code != 2:  # --help
            raise
        text = re.sub(r"\x1b\[[0-9;]*m", "", box.getvalue())
        lines = [line.strip("│╭╮╰╯─ ") for line in text.splitlines()]
        message = lines[1 : lines.index("", 1) if "" in lines[1:] else None]  # from the title to the first rule
        raise UsageError(" ".join(message or lines)) from None


def fail(message: str) -> int:
    """Say what went wrong, on stderr; the exit status for it."""
    print(f"dgmkern: error: {' '.join(message.splitlines())}", file=sys.stderr)
    return 2
