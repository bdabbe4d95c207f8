"""Time per element over five decades of sizes, to see cliffs and where the caches end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from perf.case import OPS_FOLDER, Case, Setting, families, select
from perf.cliffs import fits_in, verdicts
from perf.measure import COPY, OK, CaseResult, run_quietest
from perf.report import notes, table
from perf.timing import Plan

SIZES = tuple(10**k for k in range(3, 9))
# eager code holds up to this many times the bytes that must move: temporaries, and fp64 pieces of the check
PEAK = 3


def choose(
    setting: Setting, folder: Path = OPS_FOLDER, patterns: Iterable[str] = (), containing: Iterable[str] = ()
) -> dict[str, Callable[[int], Case]]:
    """The sweeps that the families in `folder` offer, by name, as functions from elements to a case.

    Raises:
        ValueError: a pattern that names none, or nothing left.
    """
    found = {}
    for family, module in families(folder).items():
        for name, make in getattr(module, "sweeps", lambda setting: {})(setting).items():
            found[name] = (family, make)
    names = select(((family, name) for name, (family, _) in found.items()), patterns, containing)
    return {name: found[name][1] for name in names}


def run(
    chosen: Mapping[str, Callable[[int], Case]],
    setting: Setting,
    plan: Plan,
    memory: float,
    retries: int = 0,
    *,
    markdown: bool = False,
) -> tuple[list[CaseResult], dict[str, Any]]:
    """Time every sweep at every size whose peak stays within `memory` bytes; print one table each, and its cliffs.

    Returns the results, and the verdicts on cliffs as JSON.
    """
    plan = replace(plan, rounds=min(plan.rounds, 9), min_rounds=3)
    results, climbs = [], {}
    for name, make in chosen.items():
        rows, headers, of_this = [], None, []
        for elements in SIZES:
            # compiling anew for each size would take longer than the sweep, and tells nothing about cliffs of ours
            case = make(elements).without_compile()
            if PEAK * case.bytes_moved > memory:
                print(f"{name}: {elements:.0e} elements left out, they need more than {memory / 1e9:g} GB")
                continue
            result = run_quietest(case, setting, plan, retries)
            of_this.append(result)
            headers = headers or ("elements", "fits in", *(f"{variant} ns" for variant in (*case.variants, COPY)))
            rows.append((f"{elements:.0e}", fits_in(case.bytes_moved), *per_element(result, len(headers) - 2)))
        if headers:
            found = verdicts(of_this)
            climbs[name] = [climb.to_json() for climb in found]
            print(f"{name}, ns per element\n{table(headers, rows, markdown=markdown, left=2)}")
            lines = [*map(str, found), *(line for result in of_this for line in notes(result)), ""]
            print("\n".join(lines), flush=True)
        results += of_this
    return results, {"climbs": climbs}


def per_element(result: CaseResult, columns: int) -> list[str]:
    """Nanoseconds per element of each variant, or what went wrong."""
    if result.status != OK:
        return [result.status.upper()] + [""] * (columns - 1)
    return [
        f"{1e9 * row.samples.median / result.case.elements:.3f}" if row.samples else row.error.split(":", 1)[0]
        for row in result.variants
    ]
