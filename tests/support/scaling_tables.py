"""Tables of experiments that were never run: plausible figures from a small model of a step, the same for each seed."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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
)

GIB = 2**30
Factors = dict[tuple[str, str], dict[str, Any]]
_COMPUTE = {  # ms of 1,000 samples of a rank
    "data wait": 0.02,
    "copy to the device": 0.05,
    "lookup": 0.35,
    "bottom mlp": 0.12,
    "interaction": 0.25,
    "top mlp": 0.4,
    "loss": 0.03,
    "loss backward": 0.02,
    "top mlp backward": 0.8,
    "interaction backward": 0.5,
    "bottom mlp backward": 0.2,
    "table update": 0.5,
}
_EXCHANGE = {"input distribution": 0.12, "output distribution": 0.4, "output distribution backward": 0.4}
_FIXED = {"optimizer": 0.4, "hooks": 0.05, "other": 0.3}  # ms of a step


@dataclass
class Tables:
    """Rows of an experiment, with the factors of its points.

    Attributes:
        experiment: name; seed: of the noise; repeats: of each point.
    """

    experiment: str = "weak_scaling"
    seed: int = 0
    repeats: int = 3
    rows: list[Row] = field(default_factory=list)
    factors: Factors = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def point(
        self,
        name: str,
        ranks: int,
        batch: int,
        *,
        factors: Mapping[str, Any] | None = None,
        slower: float = 1.0,
        sources: Sequence[str] = (MEASURED, PREDICTED),
        off: float = 0.05,
        by_rank: bool = True,
    ) -> None:
        """Add a point.

        Args:
            name: of it; ranks, batch: of the job.
            factors: values by dotted option.
            slower: its exchange, than that of others.
            sources: measured, predicted, published.
            off: how far the prediction is, about.
            by_rank: whether ranks have figures of their own.
        """
        self.factors[self.experiment, name] = dict(factors or {})
        stages = _stages(ranks, batch, slower)
        for source in sources:
            repeats: Iterable[int | None] = range(self.repeats) if source == MEASURED else (None,)
            for repeat in repeats:
                noise = 1 + (0.02 if source == MEASURED else off) * float(self.random.standard_normal())
                of_repeat = {stage: ms * max(0.2, noise) for stage, ms in stages.items()}
                self._figures(name, repeat, ranks, batch, source, of_repeat, slower)
                if by_rank and source != PUBLISHED:
                    self._ranks(name, repeat, ranks, batch, source, sum(of_repeat.values()))

    def failed(
        self, name: str, ranks: int, batch: int, reason: str, *, factors: Mapping[str, Any] | None = None
    ) -> None:
        """Add a point of which each repeat has failed."""
        self.factors[self.experiment, name] = dict(factors or {})
        for repeat in range(self.repeats):
            self._add(name, repeat, ranks, batch, MEASURED, "", None, status=FAILED, reason=reason)

    def missing(self, name: str, ranks: int, batch: int, *, factors: Mapping[str, Any] | None = None) -> None:
        """Add a point that nobody has run yet."""
        self.factors[self.experiment, name] = dict(factors or {})
        self._add(name, 0, ranks, batch, MEASURED, "", None, status=MISSING)

    def write(self, path: Path) -> Path:
        """As Parquet or as CSV, by the end of the name, a column a factor."""
        columns = self._columns()
        if path.suffix == ".csv":
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(columns)
                writer.writerows(zip(*columns.values(), strict=True))
        else:
            pq.write_table(pa.table(columns), path)
        return path

    def _columns(self) -> dict[str, list[Any]]:
        names = dict.fromkeys(name for found in self.factors.values() for name in found)
        columns: dict[str, list[Any]] = {one.name: [getattr(row, one.name) for row in self.rows] for one in fields(Row)}
        for name in names:
            columns[name] = [self.factors.get((row.experiment, row.point), {}).get(name) for row in self.rows]
        return columns

    def _figures(
        self,
        name: str,
        repeat: int | None,
        ranks: int,
        batch: int,
        source: str,
        stages: dict[str, float],
        slower: float,
    ) -> None:
        step_ms = sum(stages.values())

        def add(quantity: str, value: float, part: str = "") -> None:
            low, high = (value * 0.9, value * 1.1) if source == PREDICTED else (None, None)
            self._add(name, repeat, ranks, batch, source, quantity, value, part=part, low=low, high=high)

        add(SAMPLES_PER_S, batch / step_ms * 1000)
        if source == PUBLISHED:
            return
        for part, share in {"": 1.0, "p5": 0.95, "p95": 1.2}.items():
            add(STEP, step_ms * share, part)
        for stage, ms in stages.items():
            add(STAGE, ms, stage)
        if ranks > 1:
            for part, of_sample in {"all_to_all": 26 * 128 * 4 * 2 * slower, "all_reduce": 0.0}.items():
                add(EXCHANGED, of_sample * batch / ranks or 2.4e6 * 4 * 2 * (ranks - 1) / ranks, part)

    def _ranks(self, name: str, repeat: int | None, ranks: int, batch: int, source: str, step_ms: float) -> None:
        skew = np.abs(np.random.default_rng(ranks).standard_normal(ranks)) * 0.06
        for rank in range(ranks):
            uneven = 1 + float(skew[rank]) * (1.0 if source == MEASURED else 0.7)
            self._add(name, repeat, ranks, batch, source, LOAD, step_ms * 0.7 * uneven, rank=rank)
            for part, gib in {"device": 24 / ranks + 2.0 + batch / ranks * 4e-5, "host": 6.0}.items():
                self._add(name, repeat, ranks, batch, source, MEMORY, gib * GIB * uneven, part=part, rank=rank)

    def _add(
        self,
        name: str,
        repeat: int | None,
        ranks: int,
        batch: int,
        source: str,
        quantity: str,
        value: float | None,
        *,
        status: str = DONE,
        reason: str = "",
        part: str = "",
        rank: int | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        hosts = max(1, ranks // 8)
        self.rows.append(
            Row(
                self.experiment, name, repeat, status, reason, hosts, ranks, batch, source, quantity, part, rank,
                value, low, high,
            )
        )  # fmt: skip


def _stages(ranks: int, batch: int, slower: float) -> dict[str, float]:
    """A step's time: compute in proportion to samples, exchange that grows with ranks, an all-reduce, and the rest."""
    thousands = batch / ranks / 1000
    found = {stage: ms * thousands for stage, ms in _COMPUTE.items()}
    if ranks > 1:
        across = 1.0 if ranks <= 8 else 2.5 + 0.2 * np.log2(ranks / 8)
        found |= {stage: ms * thousands * slower * across * (ranks - 1) / ranks for stage, ms in _EXCHANGE.items()}
        found["all-reduce"] = 0.3 + 0.12 * float(np.log2(ranks))
    return {stage: float(ms) for stage, ms in (found | _FIXED).items()}


def weak(seed: int = 0, most_ranks: int = 128) -> Tables:
    """Weak scaling of two shardings, as measured and predicted, with a failed and a missing point."""
    tables = Tables("weak_scaling", seed)
    ranks = [2**power for power in range(most_ranks.bit_length())]
    for kind, slower in (("table_wise", 1.0), ("row_wise", 1.9)):
        for number in ranks:
            factors = {"sharding.kind": kind, "train.global_batch_size": 4096 * number, "model.kind": "dlrm"}
            name = f"{kind}-{number}"
            if kind == "row_wise" and number == ranks[-1]:
                tables.failed(
                    name, number, 4096 * number, "rank 5 ran out of memory: 79.2 GiB of 80 GiB", factors=factors
                )
            elif kind == "row_wise" and number == ranks[-2]:
                tables.missing(name, number, 4096 * number, factors=factors)
            else:
                tables.point(name, number, 4096 * number, factors=factors, slower=slower, off=0.12)
    return tables


def strong(seed: int = 0, most_ranks: int = 64) -> Tables:
    """Strong scaling of two batches, with published results beside."""
    tables = Tables("strong_scaling", seed)
    for batch in (65536, 16384):
        for number in (2**power for power in range(most_ranks.bit_length())):
            factors = {"train.global_batch_size": batch, "model.kind": "dlrm"}
            tables.point(f"b{batch}-r{number}", number, batch, factors=factors, off=0.08)
    for number, slower in ((8, 0.9), (16, 0.8), (64, 2.5), (128, 1.0)):
        tables.point(f"mlperf-{number}", number, 65536, slower=slower, sources=(PUBLISHED, PREDICTED), off=0.15)
    return tables
