"""The table of points: a row each, with what it is, what was found and what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dlrm.format import byte_size
from dlrm.scaling.report.levels import Level, short_names, telling_factors
from dlrm.scaling.report.looks import compact
from dlrm.scaling.report.points import PARTLY, Point
from dlrm.scaling.table import DONE, FAILED, MEASURED, MISSING, PREDICTED, PUBLISHED, Spread

_NONE = "–"
_MISS = 0.2


@dataclass(frozen=True)
class Column:
    """Of the table; number: whether it holds numbers."""

    title: str
    number: bool = False


@dataclass(frozen=True)
class Cell:
    """Of the table.

    Attributes:
        text: to read; note: smaller, under it.
        value: to sort by; the text if left out.
        kind: of its looks.
    """

    text: str
    note: str = ""
    value: float | str | None = None
    kind: str = ""

    @property
    def key(self) -> float | str:
        """What it is sorted by."""
        return self.text if self.value is None else self.value


def table_of(points: Sequence[Point], levels: Sequence[Level]) -> tuple[list[Column], list[list[Cell]]]:
    """Columns and rows, in the order of the table that was read."""
    factors = telling_factors([point for point in points if not point.is_published])
    several = len({point.experiment for point in points}) > 1
    efficiencies = _efficiencies(levels)
    columns = [Column("point")]
    columns += [Column("experiment")] * several
    columns += [Column(name) for name in short_names(factors).values()]
    columns += [Column(title, number=True) for title in ("ranks", "hosts", "batch")]
    columns += [Column("status")]
    columns += [Column(title, number=True) for title in ("samples/s", "step ms", "efficiency", "memory a rank")]
    columns += [Column("predicted", number=True), Column("error", number=True)]
    return columns, [list(_row(point, factors, several, efficiencies)) for point in points]


def _efficiencies(levels: Sequence[Level]) -> dict[int, float]:
    """Of points by identity; of measured ones as far as there are some, of predicted ones else."""
    found: dict[int, float] = {}
    for level in levels:
        by_source = {source: level.efficiency(source) for source in (MEASURED, PREDICTED)}
        for point in level.points:
            source = MEASURED if MEASURED in point.throughput else PREDICTED
            if source in point.throughput and point.ranks in by_source[source] and len(by_source[source]) > 1:
                found[id(point)] = by_source[source][point.ranks]
    return found


def _row(point: Point, factors: Sequence[str], several: bool, efficiencies: dict[int, float]) -> Iterator[Cell]:
    yield Cell(point.name)
    if several:
        yield Cell(point.experiment)
    for name in factors:
        yield Cell(point.factors.get(name, _NONE))
    for number in (point.ranks, point.hosts, point.batch):
        yield Cell(f"{number:,}", value=number, kind="number")
    yield _status(point)
    yield _amount(_found(point, "throughput"), 0)
    yield _amount(_found(point, "step_ms"), 2)
    yield _share(efficiencies.get(id(point)), "{:.0%}")
    yield _memory(point)
    yield _amount(point.throughput.get(PREDICTED), 0)
    yield _error(point)


def _found(point: Point, name: str) -> Spread | None:
    """What was measured; else what was published."""
    spreads: dict[str, Spread] = getattr(point, name)
    return spreads.get(MEASURED, spreads.get(PUBLISHED))


def _status(point: Point) -> Cell:
    kinds = {DONE: "good", FAILED: "bad", PARTLY: "bad", MISSING: "bad"}
    reasons = "; ".join(point.reasons)
    repeats = sum(point.repeats.values())
    if point.status == PARTLY:
        reasons = f"{point.repeats[DONE]} of {repeats} repeats" + (f"; {reasons}" if reasons else "")
    elif point.status == DONE and repeats > 1:
        return Cell(DONE, f"{repeats} repeats", kind="good why", value=DONE)
    return Cell(point.status, reasons, kind=f"{kinds.get(point.status, '')} why".strip(), value=point.status)


def _amount(spread: Spread | None, digits: int) -> Cell:
    if spread is None:
        return Cell(_NONE, value="", kind="number")
    digits += (spread.low < 10) + 2 * (spread.low < 1)  # a small amount has as many as it needs
    note = f"{_few(spread.low)} to {_few(spread.high)}" if spread.is_wide else ""
    return Cell(f"{spread.value:,.{digits}f}", note, spread.value, "number")


def _few(value: float) -> str:
    return compact(value, digits=4)


def _share(value: float | None, form: str) -> Cell:
    return Cell(_NONE if value is None else form.format(value), value="" if value is None else value, kind="number")


def _memory(point: Point) -> Cell:
    """Of the rank that takes most: of the device where there is one."""
    parts = point.memory.get(MEASURED) or point.memory.get(PREDICTED, {})
    most = {part: max(ranks.values()) for part, ranks in parts.items() if ranks}
    if not most:
        return Cell(_NONE, value="", kind="number")
    first = "device" if most.get("device") else max(most, key=lambda part: most[part])
    others = ", ".join(f"{byte_size(value)} {part}" for part, value in most.items() if part != first and value)
    predicted = "" if point.memory.get(MEASURED) else ", predicted"
    return Cell(f"{byte_size(most[first])} {first}{predicted}", others, most[first], "number")


def _error(point: Point) -> Cell:
    against = MEASURED if MEASURED in point.throughput else PUBLISHED
    error = point.error(against)
    if error is None:
        return _share(None, "")
    return Cell(f"{error:+.1%}", value=error, kind="number bad" if abs(error) > _MISS else "number")
