"""Charts of usage: the geometry of stacked bars, which the template draws as SVG."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.usage import ClientUsage, UsagePeriod, UsageReport

WIDTH, HEIGHT = 720, 140
_GAP = 0.25
"""Share of a period's width that is left empty."""
SHOWN = (("Tokens", ("issued", "refreshed", "revoked")), ("Calls", ("verified", "refused")))


@dataclass(frozen=True, slots=True)
class Bar:
    """One rectangle."""

    key: str
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing of stacked bars, one stack a period."""

    title: str
    legend: Sequence[str]
    bars: Sequence[Bar]
    first: str
    last: str
    summary: str
    width: int = WIDTH
    height: int = HEIGHT


def usage_charts(report: UsageReport, rows: Iterable[ClientUsage]) -> Sequence[Chart]:
    """Tokens and calls of the report's time; `rows` may have several rows of one period, which are added up."""
    counts: dict[datetime, Counter[str]] = {}
    for row in rows:
        if row.at is not None:
            of_period = counts.setdefault(row.at, Counter())
            for _, keys in SHOWN:
                of_period.update({key: getattr(row, key) for key in keys})
    periods = _periods(report)
    return [_chart(title, keys, periods, counts) for title, keys in SHOWN]


def _periods(report: UsageReport) -> Sequence[datetime]:
    step = timedelta(days=1) if report.per is UsagePeriod.DAY else timedelta(hours=1)
    first = report.since.replace(hour=0) if report.per is UsagePeriod.DAY else report.since
    periods = [first]
    while (following := periods[-1] + step) < report.until:
        periods.append(following)
    return periods


def _chart(title: str, keys: Sequence[str], periods: Sequence[datetime], counts: dict[datetime, Counter[str]]) -> Chart:
    highest = max((sum(counts.get(at, Counter())[key] for key in keys) for at in periods), default=0) or 1
    column = WIDTH / len(periods)
    bars = []
    for number, at in enumerate(periods):
        top = float(HEIGHT)
        for key in keys:
            value = counts.get(at, Counter())[key]
            if value:
                height = value / highest * (HEIGHT - 4)
                top -= height
                label = f"{_label(at, periods)}: {value} {key}"
                bars.append(
                    Bar(
                        key,
                        round(number * column, 2),
                        round(top, 2),
                        round(column * (1 - _GAP), 2),
                        round(height, 2),
                        label,
                    )
                )
    totals = {key: sum(counts.get(at, Counter())[key] for at in periods) for key in keys}
    summary = f"{title}: " + ", ".join(f"{number} {key}" for key, number in totals.items())
    return Chart(title, keys, bars, _label(periods[0], periods), _label(periods[-1], periods), summary)


def _label(at: datetime, periods: Sequence[datetime]) -> str:
    daily = len(periods) > 1 and periods[1] - periods[0] >= timedelta(days=1)
    return at.strftime("%d %b" if daily else "%d %b %H:00")


@dataclass(frozen=True, slots=True)
class Share:
    """The usage of one client app beside that of the others."""

    usage: ClientUsage
    widths: Mapping[str, float]
    """For each number of SHARED, its share of the highest sum of a client app, in per cent."""


SHARED = ("issued", "refreshed", "verified", "refused")


def client_shares(rows: Iterable[ClientUsage]) -> Sequence[Share]:
    """The busiest client app first."""
    ordered = sorted(rows, key=_activity, reverse=True)
    highest = _activity(ordered[0]) if ordered else 1
    return [Share(row, {key: round(getattr(row, key) / max(1, highest) * 100, 2) for key in SHARED}) for row in ordered]


def _activity(row: ClientUsage) -> int:
    return sum(getattr(row, key) for key in SHARED)
