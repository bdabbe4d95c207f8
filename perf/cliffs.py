"""Whether time is linear in the elements: a cliff is a loss per element that leaving a cache does not explain.

What leaving a cache explains is measured in the same rounds: as many nanoseconds as a copy of as many bytes loses. A
kernel whose arithmetic takes longer than its memory should lose less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from perf.case import OURS
from perf.machine import caches
from perf.measure import COPY, OK, CaseResult

# a kernel of many streams may lose more than a copy, and medians of a few rounds differ by a fifth
CLIFF = 1.5


def fits_in(bytes_moved: int) -> str:
    """The smallest cache of a core that holds so many bytes; "memory" where none does."""
    for level, size in sorted(caches().items()):
        if bytes_moved <= size:
            return level
    return "memory"


@dataclass(frozen=True)
class Climb:
    """How much slower per element a variant is at one size of a sweep than at a smaller one."""

    variant: str
    smaller: int  # elements
    larger: int
    seconds: tuple[float, float]  # per element, at the two
    copy_loss: float  # seconds per element that the copy takes longer there, at least 0
    fits_in: tuple[str, str]
    noisy: bool

    @property
    def expected(self) -> float:
        return self.seconds[0] + self.copy_loss

    @property
    def unexplained(self) -> float:
        """Time at the larger size over what is expected there."""
        return self.seconds[1] / self.expected

    @property
    def is_cliff(self) -> bool:
        return self.unexplained > CLIFF

    def __str__(self) -> str:
        before, after, expected = (1e9 * s for s in (*self.seconds, self.expected))
        question = "?" if self.noisy else ""
        return (
            f"{self.variant}: {f'CLIFF{question}' if self.is_cliff else 'no cliff'}; the steepest: {before:.3f} ns per "
            f"element at {self.smaller:.0e} ({self.fits_in[0]}), {after:.3f} at {self.larger:.0e} ({self.fits_in[1]}), "
            f"where {expected:.3f} would be linear with what a copy loses"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"unexplained": self.unexplained, "is_cliff": self.is_cliff}


def seconds_per_element(result: CaseResult, variant: str) -> float | None:
    """Median over the rounds; None where the variant has no time."""
    row = next((row for row in result.variants if row.name == variant), None)
    return None if row is None or row.samples is None else row.samples.median / result.case.elements


def steepest(results: Sequence[CaseResult], variant: str) -> Climb | None:
    """The climb of `variant` that a copy explains least, over all pairs of sizes; None with less than two sizes.

    Of equal ones the first, to the size just before it.
    """
    points = [
        (result, ours, seconds_per_element(result, COPY))
        for result in sorted(results, key=lambda result: result.case.elements)
        if result.status == OK and (ours := seconds_per_element(result, variant)) is not None
    ]
    climbs = [
        Climb(
            variant,
            low.case.elements,
            high.case.elements,
            (low_ours, high_ours),
            max(0.0, high_copy - low_copy),
            (fits_in(low.case.bytes_moved), fits_in(high.case.bytes_moved)),
            low.noisy or high.noisy,
        )
        for i, (high, high_ours, high_copy) in enumerate(points)
        for low, low_ours, low_copy in points[:i]
    ]
    return max(climbs, key=lambda climb: (round(climb.unexplained, 6), -climb.larger, climb.smaller), default=None)


def verdicts(results: Sequence[CaseResult]) -> list[Climb]:
    """The steepest climb of each variant of ours in a sweep."""
    names = dict.fromkeys(row.name for result in results for row in result.variants if row.name.startswith(OURS))
    return [climb for name in names if (climb := steepest(results, name)) is not None]
