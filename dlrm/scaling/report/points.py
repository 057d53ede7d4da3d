"""From the rows of a table to its points: what each is, and its figures over repeats and ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from dlrm.errors import DataError
from dlrm.format import escaped
from dlrm.scaling.report.read import Results
from dlrm.scaling.table import (
    DONE,
    EXCHANGED,
    FAILED,
    LOAD,
    MEASURED,
    MEMORY,
    MISSING,
    PREDICTED,
    PUBLISHED,
    SAMPLES_PER_S,
    STAGE,
    STEP,
    Row,
    Spread,
    spread_of,
)

PARTLY = "done in part"
"""Of a point of which some repeats have failed or are missing."""
MIDDLE_OF_STEPS = ""  # the part of STEP that is a median; p5 and p95 are others


@dataclass
class Point:
    """A point of an experiment.

    Attributes:
        experiment, name: of it; hosts, ranks, batch: of the job and of its steps, samples.
        factors: values by dotted option.
        repeats: how many are done, failed, missing.
        reasons: why repeats have failed, each once.
        throughput: samples/s by source; step_ms: median of a step by source.
        stages: ms in a step, by source and stage; exchanged: bytes a rank sends in a step, by source and collective.
        memory: bytes at the peak, by source, part and rank (None: the job's); load: ms in which a rank works, by source
            and rank.
    """

    experiment: str
    name: str
    hosts: int
    ranks: int
    batch: int
    factors: Mapping[str, str] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    throughput: dict[str, Spread] = field(default_factory=dict)
    step_ms: dict[str, Spread] = field(default_factory=dict)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    exchanged: dict[str, dict[str, float]] = field(default_factory=dict)
    memory: dict[str, dict[str, dict[int | None, float]]] = field(default_factory=dict)
    load: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """done, failed, missing, done in part; predicted or published of what nobody has run."""
        if self.repeats:
            return next(iter(self.repeats)) if len(self.repeats) == 1 else self._mixed
        return PUBLISHED if PUBLISHED in self.throughput else PREDICTED

    @property
    def _mixed(self) -> str:
        return PARTLY if DONE in self.repeats else FAILED

    @property
    def is_published(self) -> bool:
        """Whether its figures are somebody else's, and nobody has run it."""
        return self.status == PUBLISHED

    def error(self, against: str = MEASURED) -> float | None:
        """By how much the prediction is too high, as a share of what was measured or published."""
        truth, predicted = self.throughput.get(against), self.throughput.get(PREDICTED)
        return predicted.value / truth.value - 1 if truth and predicted and truth.value > 0 else None

    def imbalance(self, source: str) -> float | None:
        """How long the slowest rank works, as a multiple of the mean."""
        load = self.load.get(source, {}).values()
        return max(load) / mean if load and (mean := fmean(load)) > 0 else None


def points_of(results: Results) -> list[Point]:
    """The points in the order of the table.

    Raises:
        DataError: no row of a point has numbers of hosts, ranks and samples.
    """
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        rows.setdefault((row.experiment, row.point), []).append(row)
    sizes = {key: _size(results.path, key[1], found) for key, found in rows.items()}
    return [_point(key, sizes[key], found, results.factors.get(key, {})) for key, found in rows.items()]


def _size(path: Path | None, point: str, rows: list[Row]) -> tuple[int, int, int]:
    """Hosts, ranks and samples of a step: as the measured rows have them, if some are."""
    measured_first = sorted(rows, key=lambda row: row.source != MEASURED)
    sizes = ((row.hosts, row.ranks, row.global_batch_size) for row in measured_first)
    if (found := next((size for size in sizes if min(size) > 0), None)) is None:
        problem = f"no row of point {escaped(point)} has hosts, ranks and global_batch_size of 1 or more"
        raise DataError(str(path or "rows"), problem)
    return found


def _point(key: tuple[str, str], size: tuple[int, int, int], rows: list[Row], factors: Mapping[str, str]) -> Point:
    point = Point(*key, *size, factors)
    _count(point, [row for row in rows if row.source == MEASURED])
    figures: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row.value is not None:
            figures.setdefault(row.source, {}).setdefault(row.quantity, []).append(row)
    for source, found in figures.items():
        _fill(point, source, found)
    return point


def _count(point: Point, rows: list[Row]) -> None:
    statuses = {row.repeat: row.status for row in rows}
    for status in (DONE, FAILED, MISSING):
        if count := sum(found == status for found in statuses.values()):
            point.repeats[status] = count
    point.reasons = list(dict.fromkeys(row.reason for row in rows if row.reason and row.status != DONE))


def _fill(point: Point, source: str, found: Mapping[str, list[Row]]) -> None:
    steps = [row for row in found.get(STEP, ()) if row.rank is None and row.part == MIDDLE_OF_STEPS]
    speeds = [row for row in found.get(SAMPLES_PER_S, ()) if row.rank is None]
    throughput = spread_of(speeds) if speeds else None
    step = spread_of(steps) if steps else None
    # One follows from the other where a table has only one.
    if throughput := throughput or _inverse(step, point.batch * 1000):
        point.throughput[source] = throughput
    if step := step or _inverse(throughput, point.batch * 1000):
        point.step_ms[source] = step
    if stages := _by_part(found.get(STAGE, ())):
        point.stages[source] = stages
    if exchanged := _by_part(found.get(EXCHANGED, ())):
        point.exchanged[source] = exchanged
    for row in found.get(MEMORY, ()):
        by_rank = point.memory.setdefault(source, {}).setdefault(row.part, {})
        by_rank[row.rank] = max(_value(row), by_rank.get(row.rank, 0.0))
    if load := _by_rank(found.get(LOAD, ())):
        point.load[source] = load


def _value(row: Row) -> float:
    assert row.value is not None
    return row.value


def _inverse(figure: Spread | None, product: float) -> Spread | None:
    if figure is None or figure.low <= 0:
        return None
    return Spread(product / figure.value, product / figure.high, product / figure.low)


def _by_part(rows: Iterable[Row]) -> dict[str, float]:
    """The mean over repeats of each part: of the ranks' mean where the table has it, else over ranks."""
    of_job: dict[str, list[float]] = {}
    of_ranks: dict[str, list[float]] = {}
    for row in rows:
        (of_job if row.rank is None else of_ranks).setdefault(row.part, []).append(_value(row))
    return {part: fmean(values) for part, values in (of_ranks | of_job).items()}


def _by_rank(rows: Iterable[Row]) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for row in rows:
        if row.rank is not None:
            found.setdefault(row.rank, []).append(_value(row))
    return {rank: fmean(values) for rank, values in sorted(found.items())}
