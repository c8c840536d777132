"""The report of a measurement: a table, and targets with the figures reached."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

_WIDTHS = (26, 9, 8, 10, 10, 8)
HEADING = ("rate /s", "ratio", "p50 ms", "p99 ms", "CPU µs")


class MeasurementFailed(Exception):
    """A response was wrong or did not come; the figures of this run are meaningless."""


T = TypeVar("T")


def required(value: T | None) -> T:
    """Return the value. Raises MeasurementFailed if it is None."""
    if value is None:
        raise MeasurementFailed("a record that the measurement created is missing")
    return value


@dataclass
class Figures:
    """The figures of all rounds of one measurement."""

    rounds: list[dict[str, float]] = field(default_factory=list)

    def median(self, name: str) -> float:
        """The median of this figure over the rounds."""
        return statistics.median(figures[name] for figures in self.rounds)

    def ratio(self, other: "Figures", name: str = "rps") -> float:
        """Median over the rounds of this figure divided by the other's in the same round.

        Rounds are compared pairwise, because the machine's speed varies from round to round.
        """
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(ours[name] / theirs[name] for ours, theirs in pairs)


@dataclass(frozen=True)
class Target:
    """A measured figure and its bound."""

    what: str
    measured: float
    bound: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    def __str__(self) -> str:
        verdict = "reached" if self.reached else "MISSED"
        return f"{self.what}: {self.measured:.3g} (target {'≤' if self.at_most else '≥'} {self.bound:g}): {verdict}"


@dataclass
class Report:
    """The result of one measurement."""

    title: str
    lines: list[str] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def heading(self, text: str, columns: Sequence[str] = HEADING) -> None:
        """Add the first line of a table."""
        self.lines += ["", _aligned((text, *columns))]

    def row(self, name: str, figures: Figures, bare: Figures) -> None:
        """Add a line with the medians, and the rate as a fraction of the bare handler's."""
        self.lines.append(
            _aligned(
                (
                    f"  {name}",
                    f"{figures.median('rps'):.0f}",
                    f"{figures.ratio(bare):.3f}",
                    f"{figures.median('p50'):.2f}",
                    f"{figures.median('p99'):.2f}",
                    f"{figures.median('cpu'):.0f}",
                )
            )
        )

    def __str__(self) -> str:
        return "\n".join((f"\n{self.title}", *self.lines, *(f"  {target}" for target in self.targets)))


def _aligned(cells: Sequence[str]) -> str:
    first, *rest = zip(cells, _WIDTHS, strict=True)
    return first[0].ljust(first[1]) + "".join(cell.rjust(width) for cell, width in rest)


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """`p50` and `p99` in milliseconds."""
    ordered = sorted(seconds)
    return {"p50": ordered[len(ordered) // 2] * 1000, "p99": ordered[int(len(ordered) * 0.99)] * 1000}
