"""Put parts together: the output in the order of the input, and the figures where there are labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import torch

from dlrm.config.predict import PredictConfig
from dlrm.errors import DataError, DivergedError
from dlrm.files import seen, written_beside
from dlrm.inference.exported.tiles import MOST_ROWS, padded
from dlrm.inference.predict.inputs import Input
from dlrm.inference.predict.outputs import open_writer
from dlrm.inference.predict.score import CARRIED, LABEL, LOGIT
from dlrm.inference.predict.work import WorkFolder
from dlrm.metrics.tasks import Results, TaskMetrics
from dlrm.progress import Progress


@dataclass(frozen=True)
class Outcome:
    """What an output came to.

    Attributes:
        rows: of it; skipped: of these, rows without results; non_finite: rows with a logit that is NaN or infinite.
        labelled: whether there are labels.
        results: of rows with labels; None where there are none, or a logit of such a row was NaN or infinite.
    """

    rows: int
    skipped: int
    non_finite: int
    labelled: bool
    results: Results | None


def assemble(
    config: PredictConfig,
    work: WorkFolder,
    inputs: Sequence[Input],
    *,
    schema: pa.Schema,
    tasks: Sequence[str],
    progress: Progress,
    before_name: Callable[[BinaryIO, Outcome], None],
) -> Outcome:
    """Write the output; it has its name when it is whole.

    Args:
        config: says what is written.
        work: with all parts.
        inputs: in order.
        schema: of the output.
        tasks: of the model.
        progress: is told of rows.
        before_name: is called with the whole file before it gets its name.

    Raises:
        DataError: a part is missing or damaged.
        OSError: the output cannot be written.
    """
    parts = list(_parts(work, inputs))
    rows = sum(_rows(work, part) for part in parts)
    progress.step("assemble", rows, unit="rows")
    with written_beside(work.output) as file:
        writer, figures = open_writer(config.ending, file, rows, schema), _Figures(tasks)
        for path in parts:
            part = _read(work, path)
            logits_MT = _matrix(part, LOGIT, len(tasks))
            figures.count(part, logits_MT)
            writer.write(_output(config, part, logits_MT, schema))
            progress.advance(part.num_rows)
        writer.close()
        outcome = figures.outcome(rows)
        before_name(file, outcome)
    return outcome


class _Figures:
    """Counts rows and labels.

    Args:
        tasks: of the model.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._metrics = TaskMetrics(tasks, torch.device("cpu"))
        self._tasks = len(tasks)
        self._skipped, self._non_finite, self._labelled = 0, 0, False

    def count(self, part: pa.Table, logits_MT: torch.Tensor) -> None:
        """Count the rows of a part, and labels that are there of rows that were not skipped."""
        scored_M = torch.from_numpy(part.column(f"{LOGIT}0").is_valid().to_numpy())
        self._skipped += int((~scored_M).sum())
        self._non_finite += int((scored_M & ~logits_MT.isfinite().all(1)).sum())
        if f"{LABEL}0" not in part.column_names or not part.num_rows:
            return
        self._labelled = True
        labels_MT = _matrix(part, LABEL, self._tasks)
        counted_MT = ~labels_MT.isnan() & scored_M[:, None]
        self._metrics.update(logits_MT, labels_MT, counted_MT.to(torch.float32))

    def outcome(self, rows: int) -> Outcome:
        """What so many rows came to."""
        results = None
        if self._labelled:
            with suppress(DivergedError):  # of a row that is counted already
                results = self._metrics.compute()
        return Outcome(rows, self._skipped, self._non_finite, self._labelled, results)


def _parts(work: WorkFolder, inputs: Sequence[Input]) -> Iterator[Path]:
    """All parts, in order."""
    for number, item in enumerate(inputs):
        if item.blocks is None:
            seen(lambda: work.blocks(number) is not None)  # noqa: B023  # it is called at once
        blocks = item.blocks if item.blocks is not None else work.blocks(number)
        if blocks is None:
            raise _missing(work, work.count(number))
        for block in range(blocks):
            path = work.part(number, block)
            if not seen(path.exists):
                raise _missing(work, path)
            yield path


def _missing(work: WorkFolder, path: Path) -> DataError:
    return DataError(str(path), "is missing", hint="run the command again: what is there is kept")


def _rows(work: WorkFolder, path: Path) -> int:
    try:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
    except pa.ArrowInvalid:
        raise work.damaged(path) from None


def _read(work: WorkFolder, path: Path) -> pa.Table:
    try:
        with pa.OSFile(str(path)) as file:
            return pa.ipc.open_file(file).read_all()
    except pa.ArrowInvalid:
        raise work.damaged(path) from None


def _matrix(part: pa.Table, name: str, tasks: int) -> torch.Tensor:
    """Columns side by side, float32 (M, T); NaN where null."""
    columns = [part.column(f"{name}{t}").to_numpy().astype(np.float32, copy=False) for t in range(tasks)]
    return torch.from_numpy(np.stack(columns, axis=1))


def probabilities_of(logits_MT: torch.Tensor) -> torch.Tensor:
    """The probabilities that :meth:`~dlrm.inference.exported.predictor.Predictor.probabilities` gives, to the bit.

    In the same pieces, with rows added to the last one: where a tensor ends, and where threads divide it, elements take
    another path through a vectorised function.
    """
    return torch.cat([piece.sigmoid() for piece in padded(logits_MT).split(MOST_ROWS)])[: len(logits_MT)]


def _output(config: PredictConfig, part: pa.Table, logits_MT: torch.Tensor, schema: pa.Schema) -> pa.Table:
    """The rows of the output."""
    found_MT = logits_MT if config.logits else probabilities_of(logits_MT)
    skipped_M = part.column(f"{LOGIT}0").is_null().to_numpy()
    carried = [part.column(f"{CARRIED}{i}") for i in range(len(config.carry))]
    results = [pa.array(found_MT[:, t].numpy(), mask=skipped_M) for t in range(found_MT.shape[1])]
    return pa.table([*carried, *results], schema=schema)
