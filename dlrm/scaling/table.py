"""The table of an experiment: one row a figure, so that whoever reads it filters and groups and takes nothing apart.

It is written as Parquet and as CSV (:mod:`dlrm.scaling.experiments`), and read by the report and by the cost model's
calibration. A point's factors are columns of their own, by their dotted option.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

MEASURED, PREDICTED, PUBLISHED = "measured", "predicted", "published"
DONE, FAILED, MISSING = "done", "failed", "missing"

# What a figure is, with its unit. Stages, collectives and parts of memory stand in ``part``.
SAMPLES_PER_S = "samples_per_s"  # of all ranks
STEP = "step_ms"  # median of the steps of a repeat; part: "", "p5", "p95"
STAGE = "stage_ms"  # part: stage, by the names of dlrm.scaling.benchmark.stages; rank: whose; without: mean of all
EXCHANGED = "bytes_sent"  # in a step; part: collective (all_to_all, all_reduce, ...); without rank: mean of all
MEMORY = "memory_bytes"  # at the peak; part: host, device
LOAD = "busy_ms"  # of a step, in which the rank works and does not wait for others


@dataclass(frozen=True)
class Row:
    """A figure.

    Attributes:
        experiment, point: names; repeat: of the point, from 0; None of what is predicted or published.
        status: of the repeat, done, failed or missing; reason: of a failure, in a line. A repeat that failed has one row,
            without a quantity.
        hosts, ranks: of the job; global_batch_size: samples of a step.
        source: measured, predicted, published.
        quantity: what it is, with its unit; "" of a failure.
        part: of it; rank: whose; None: of the job.
        value: of the figure; low, high: of the band of a prediction.
    """

    experiment: str
    point: str
    repeat: int | None
    status: str
    reason: str
    hosts: int
    ranks: int
    global_batch_size: int
    source: str
    quantity: str
    part: str
    rank: int | None
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Spread:
    """A figure with how far it spreads.

    Attributes:
        value, low, high: of the repeats of a point: their median, least and greatest; predicted: the value and its band.
    """

    value: float
    low: float
    high: float

    @property
    def is_wide(self) -> bool:
        """Whether there is more than one value."""
        return self.low < self.high


Figure = tuple[str, str, str, str, int | None]
"""point, source, quantity, part, rank."""


def spreads(rows: Iterable[Row]) -> dict[Figure, Spread]:
    """Median and spread of every figure over the repeats that have one, in the order in which they come."""
    found: dict[Figure, list[Row]] = {}
    for row in rows:
        if row.value is not None:
            found.setdefault((row.point, row.source, row.quantity, row.part, row.rank), []).append(row)
    return {figure: spread_of(of_figure) for figure, of_figure in found.items()}


def spread_of(rows: Sequence[Row]) -> Spread:
    """Median and spread of a figure over rows that have it, at least one."""
    values = [row.value for row in rows if row.value is not None]
    low = min(value if row.low is None else row.low for row, value in zip(rows, values, strict=True))
    high = max(value if row.high is None else row.high for row, value in zip(rows, values, strict=True))
    return Spread(median(values), low, high)
