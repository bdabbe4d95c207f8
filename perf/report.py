"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from perf.limits import NormalRate
from perf.measure import OK, CaseResult, TargetResult, VariantResult, is_noisy

SCHEMA = "dgmkern-perf/1"
HEADERS = ("case", "variant", "time", "q1 .. q3", "vs base", "x limit", "target", "reached")

LEGEND = (
    "time: median of interleaved samples; vs base: how many times faster than the first variant, median of paired\n"
    "ratios; copy: torch copy_ that reads and writes as many bytes, half each, as the case must move; x limit: time\n"
    "over the later of copy and of drawing the normals (below 1: an op that reads more than it writes beats a copy)"
)


def duration(seconds: float) -> str:
    """Three digits and a unit: `9.21 ms`, `21.0 us`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{seconds * 1e9:.0f} ns"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False, left: int = 2) -> str:
    """Aligned plain text, or a Markdown table; the first `left` columns flush left, the others right."""
    widths = [max(len(str(row[i])) for row in (headers, *rows)) for i in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    rule = [("-" * w if i < left or not markdown else "-" * (w - 1) + ":") for i, w in enumerate(widths)]
    return "\n".join([line(headers), line(rule), *(line(row) for row in rows)])


def case_rows(result: CaseResult) -> list[tuple[str, ...]]:
    """The rows of one case; a second target of a variant takes a row of its own."""
    case = result.case
    if result.status != OK:
        return [(case.name, result.status.upper(), "not timed", "", "", "", "", "")]
    rows: list[tuple[str, ...]] = []
    for variant in result.variants:
        goals = [
            (goal.text, reached_cell(goal, result.noisy)) for goal in result.targets if goal.of == variant.name
        ] or [("", "")]
        rows.append((variant.name, *variant_cells(variant), *goals[0]))
        rows += [("", "", "", "", "", *goal) for goal in goals[1:]]
    rows.append((f"limit, set by {result.limit.set_by}", duration(result.limit.seconds), "", "", "1.00", "", ""))
    return [(case.name if i == 0 else "", *row) for i, row in enumerate(rows)]


def variant_cells(variant: VariantResult) -> tuple[str, str, str, str]:
    """Time (or the class of the error), quartiles, ratio to the baseline, ratio to the limit."""
    if variant.samples is None:
        return variant.error.split(":", 1)[0], "", "", ""
    q1, q3 = variant.samples.quartiles
    return (
        duration(variant.samples.median),
        f"{duration(q1)} .. {duration(q3)}",
        f"{variant.speedup:.2f}x" if variant.speedup is not None else "",
        f"{variant.times_limit:.2f}" if variant.times_limit is not None else "",
    )


def reached_cell(goal: TargetResult, noisy: bool) -> str:
    """`6.42x yes`, `1.31x NO`, with a question mark where the machine was not quiet; or `not timed`."""
    if goal.reached is None:
        return "not timed"
    return f"{goal.reached:.2f}x {'yes' if goal.met else 'NO'}{'?' if noisy else ''}"


def notes(result: CaseResult) -> list[str]:
    """What the figures of a case do not say: errors in full, a failed check, a machine that was not quiet."""
    lines = [] if result.message is None else [f"{result.case.name}: {result.message}"]
    lines += [f"{result.case.name}, {row.name}: {row.error}" for row in result.variants if row.error]
    if result.noisy:
        lines.append(f"{result.case.name}: other processes used {result.used_by_others:.0%} of the CPU meanwhile")
    return lines


def case_table(results: Sequence[CaseResult], *, markdown: bool = False) -> str:
    """All cases, one row per variant, and the notes below."""
    text = table(HEADERS, [row for result in results for row in case_rows(result)], markdown=markdown)
    below = [line for result in results for line in notes(result)]
    return "\n".join([text, "", *below]) if below else text


def heading(machine: dict[str, Any], versions: dict[str, Any], setting: dict[str, Any], rate: NormalRate | None) -> str:
    """Machine, versions and measured rates, three lines."""
    gpu = f"{machine['gpu']['name']}; " if "gpu" in machine else ""
    sizes = ", ".join(f"{level} {size >> 10} KiB" for level, size in machine["caches"].items())
    lines = [
        f"{gpu}{machine['cpu']}, {machine['cores']} cores ({sizes or 'caches unknown'}), {setting['threads']} threads, "
        f"dgmkern {machine['capability'] or 'reference only'}, torch {machine['torch_capability']}",
        f"python {versions['python']}, torch {versions['torch']}, commit {versions['commit'] or 'unknown'}, "
        f"{'cold' if setting['cold'] else 'warm'} caches, allocator: {setting['allocator']}",
    ]
    if rate is not None:
        ours = f"dgmkern.normal {rate.dgmkern / 1e6:.0f} M/s" if rate.dgmkern else "dgmkern.normal failed"
        busy = f" (other processes used {rate.used_by_others:.0%} of the CPU)" if is_noisy(rate.used_by_others) else ""
        lines.append(f"normals: {ours}, torch.randn {rate.torch / 1e6:.0f} M/s{busy}")
    return "\n".join(lines)


def case_json(result: CaseResult) -> dict[str, Any]:
    """One case as JSON; times in seconds per call, one sample a round."""
    case = result.case
    return {
        "name": case.name,
        "family": case.family,
        "status": result.status,
        "message": result.message,
        "baseline": case.baseline,
        "elements": case.elements,
        "bytes_moved": case.bytes_moved,
        "normals": case.normals,
        "used_by_others": result.used_by_others,
        "limit": None
        if result.limit is None
        else {
            "seconds": result.limit.seconds,
            "set_by": result.limit.set_by,
            "copy_seconds": result.limit.copy_seconds,
            "normal_seconds": result.limit.normal_seconds,
        },
        "variants": [
            {
                "name": row.name,
                "status": row.status,
                "error": row.error,
                "threads": row.threads,
                "median": row.samples and row.samples.median,
                "quartiles": row.samples and list(row.samples.quartiles),
                "inner": row.samples and row.samples.inner,
                "samples": row.samples and list(row.samples.seconds),
                "speedup": row.speedup,
                "speedup_quartiles": row.speedup_quartiles and list(row.speedup_quartiles),
                "times_limit": row.times_limit,
            }
            for row in result.variants
        ],
        "targets": [
            {"of": goal.of, "target": goal.text, "reached": goal.reached, "met": goal.met} for goal in result.targets
        ],
    }


def document(
    machine: dict[str, Any],
    versions: dict[str, Any],
    setting: dict[str, Any],
    rate: NormalRate | None,
    results: Sequence[CaseResult],
    *,
    complete: bool = True,
    **more: Any,
) -> dict[str, Any]:
    """The JSON document of a run. `complete` is False where the run was interrupted."""
    return {
        "schema": SCHEMA,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "complete": complete,
        "machine": machine,
        "versions": versions,
        "setting": setting,
        "normals_per_second": rate and rate.to_json(),
        "cases": [case_json(result) for result in results],
        **more,
    }


def check_writable(path: Path) -> None:
    """Raise OSError now rather than after the run, if `path` cannot be written."""
    if path.is_dir():
        raise IsADirectoryError(f"--out: {path} is a folder; give a file name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--out: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"--out: the folder {path.parent} cannot be written")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write beside `path`, then rename: never half a file."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
