"""The table of a study: one row a figure, each of which says all about itself; table.parquet and table.csv.

Parameters of trials are columns of their own, by name. A run that has no figures has one row, without a quantity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrm.jobs.table import write_table

PARQUET, CSV = "table.parquet", "table.csv"
DONE, FAILED, MISSING = "done", "failed", "missing"
SCORES = ("auc", "log_loss", "normalised_entropy", "accuracy", "calibration", "average_precision")
"""Figures of a split."""
MODEL_BYTES, SAMPLES_PER_S, TRAINING_TIME, EXCHANGED = (
    "model_bytes",
    "samples_per_s",
    "training_time_s",
    "exchanged_bytes",
)
"""Figures of a run: of all weights; of training; bytes that all ranks together send others in a step, by formula."""


@dataclass(frozen=True)
class Row:
    """A figure.

    Attributes:
        study, arm: names; purpose: search, final, or baseline; trial: number, of the search; seed: of the run.
        chosen: whether it is of the trial that was chosen.
        status, reason: of the run: done, failed or missing.
        split: validation or test; "" of figures of no split; quantity: what it is, with its unit; "" of no figure.
        value: of the figure.
    """

    study: str
    arm: str
    purpose: str
    trial: int | None
    seed: int | None
    chosen: bool
    status: str
    reason: str
    split: str
    quantity: str
    value: float | None


def figures_of(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """(split, quantity, value) of all that a run has found."""
    for split in ("validation", "test"):
        found = summary.get(split)
        for name in SCORES if isinstance(found, Mapping) else ():
            if (value := found.get(name)) is not None:  # type: ignore[union-attr]
                yield split, name, float(value)
    for quantity in (SAMPLES_PER_S, TRAINING_TIME, MODEL_BYTES):
        if (value := summary.get(quantity)) is not None:
            yield "", quantity, float(value)


def write_rows(rows: Sequence[Row], points: Mapping[tuple[str, int | None], Mapping[str, Any]], folder: Path) -> None:
    """Replace both files, each as a whole.

    Args:
        rows: of all runs.
        points: parameters by arm and trial; by arm and None those of the choice.
        folder: for the files.

    Raises:
        OSError: they cannot be written.
    """
    names = dict.fromkeys(name for point in points.values() for name in point)
    levels = {name: [points.get((row.arm, row.trial), {}).get(name) for row in rows] for name in names}
    write_table(Row, rows, levels, parquet=folder / PARQUET, csv=folder / CSV)
