"""Metrics of several processes as plain data: sent as JSON, and added up.

Counters and histograms are summed. Each gauge says how it is combined: `sum`, `max` or `min`. The parent also keeps the
counters of workers that have ended: a sum that became smaller would be taken for a restart by Prometheus, and what is
left of it counted a second time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import add
from typing import Any

_GROWING = frozenset({"counter", "histogram", "summary"})
_BEGAN = "_created"
"""Suffix of the samples with the time at which a counter began: the earliest counts."""
_COMBINED: Mapping[str, Callable[[float, float], float]] = {"sum": add, "max": max, "min": min}

Labels = tuple[tuple[str, str], ...]


@dataclass
class Family:
    """One metric with all its series."""

    name: str
    documentation: str
    type: str
    combine: str
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)

    @property
    def grows(self) -> bool:
        """Whether its values must never become smaller."""
        return self.type in _GROWING

    def add(self, sample: str, labels: Labels, value: float) -> None:
        """Combine this value with the one that is there."""
        there = self.samples.get((sample, labels))
        combine = "min" if sample.endswith(_BEGAN) and self.grows else "sum" if self.grows else self.combine
        self.samples[sample, labels] = value if there is None else _COMBINED[combine](there, value)


class Families:
    """The metrics of one or several processes, by name."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families.values())

    def family(self, name: str, documentation: str, type: str = "gauge", combine: str = "sum") -> Family:
        """The family of this name; a new one if there is none."""
        return self._families.setdefault(name, Family(name, documentation, type, combine))

    def add(self, other: "Families", *, only_growing: bool = False) -> None:
        """Combine all families of the other, or only its counters and histograms, with these."""
        for family in other._families.values():
            if family.grows or not only_growing:
                mine = self.family(family.name, family.documentation, family.type, family.combine)
                for (sample, labels), value in family.samples.items():
                    mine.add(sample, labels, value)

    def total(self, sample: str) -> float:
        """The sum of all series with this name."""
        found = (
            value for family in self._families.values() for (name, _), value in family.samples.items() if name == sample
        )
        return sum(found)

    def as_json(self) -> list[Any]:
        """Plain lists, for `from_json`."""
        return [
            [
                family.name,
                family.documentation,
                family.type,
                family.combine,
                [[sample, labels, value] for (sample, labels), value in family.samples.items()],
            ]
            for family in self._families.values()
        ]

    @classmethod
    def from_json(cls, data: Iterable[Any]) -> "Families":
        """The families of `as_json`, after their way as JSON. A value that JSON does not have (NaN) is left out."""
        families = cls()
        for name, documentation, type_, combine, samples in data:
            family = families.family(name, documentation, type_, combine)
            for sample, labels, value in samples:
                if value is not None:
                    family.samples[sample, tuple((label, text) for label, text in labels)] = value
        return families
