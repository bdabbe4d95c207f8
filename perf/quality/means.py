"""Figures of one experiment over several seeds."""

import statistics
from collections.abc import Iterable
from typing import Any


def means(runs: list[dict[str, Any]], names: Iterable[str]) -> dict[str, Any]:
    """Of each figure the mean and, as `<name>_std`, the sample standard deviation over runs (None for one run)."""
    table: dict[str, Any] = {"seeds": len(runs)}
    for name in names:
        values = [run[name] for run in runs]
        table[name] = statistics.fmean(values)
        table[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return table
