"""From what a repeat has left to rows of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dlrm.scaling.experiments.matrix import Point
from dlrm.scaling.table import (
    DONE,
    EXCHANGED,
    LOAD,
    MEASURED,
    MEMORY,
    SAMPLES_PER_S,
    STAGE,
    STEP,
    Row,
)


class Rows:
    """Makes the rows of one point.

    Args:
        experiment: its name.
        point: whose.
    """

    def __init__(self, experiment: str, point: Point) -> None:
        self._experiment, self._point = experiment, point

    def of_result(self, repeat: int, found: Mapping[str, Any]) -> list[Row]:
        """All figures of a benchmark.json."""
        return [
            self.row(repeat, DONE, quantity=quantity, part=part, rank=rank, value=float(value))
            for quantity, part, rank, value in _figures(found)
        ]

    def without_figures(self, repeat: int, status: str, reason: str = "") -> Row:
        """A repeat that failed, or was not run."""
        return self.row(repeat, status, reason=reason)

    def row(
        self,
        repeat: int | None,
        status: str,
        *,
        reason: str = "",
        source: str = MEASURED,
        quantity: str = "",
        part: str = "",
        rank: int | None = None,
        value: float | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> Row:
        """One row of the point; see :class:`~dlrm.scaling.table.Row`."""
        point = self._point
        return Row(
            experiment=self._experiment,
            point=point.name,
            repeat=repeat,
            status=status,
            reason=reason,
            hosts=point.hosts,
            ranks=point.ranks,
            global_batch_size=point.global_batch_size,
            source=source,
            quantity=quantity,
            part=part,
            rank=rank,
            value=value,
            low=low,
            high=high,
        )


_Figure = tuple[str, str, int | None, float]


def _figures(found: Mapping[str, Any]) -> Iterator[_Figure]:
    """(quantity, part, rank, value) of all that a benchmark has found."""
    yield SAMPLES_PER_S, "", None, found["samples_per_s"]
    for part, name in (("", "median_ms"), ("p5", "p5_ms"), ("p95", "p95_ms")):
        yield STEP, part, None, found["step"][name]
    for stage in found["breakdown"]["stages"]:
        yield STAGE, stage["stage"], None, stage["mean_ms"]
        yield from _by_rank(STAGE, stage["stage"], stage["by_rank_ms"])
    yield from _by_rank(LOAD, "", found["breakdown"]["busy_ms"])
    for collective, sent in found["bytes_sent"].items():
        yield EXCHANGED, collective, None, sum(sent) / len(sent)
        yield from _by_rank(EXCHANGED, collective, sent)
    if (memory := found["memory"]) is not None:
        for part in ("host", "device"):
            yield from _by_rank(MEMORY, part, memory[f"{part}_bytes_by_rank"] or ())


def _by_rank(quantity: str, part: str, values: Sequence[float]) -> Iterator[_Figure]:
    yield from ((quantity, part, rank, value) for rank, value in enumerate(values))
