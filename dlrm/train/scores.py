"""The score of every sample of an evaluation, in order, as a Parquet file in the run's folder.

Columns ``logit`` (float32, before the sigmoid) and ``label`` (float32: 0 or 1; null where it is missing, or the sample was
skipped); of several tasks each with the task's name, ``logit.click``. Where figures are made with the samples' weights,
``weight`` (float32), too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from dlrm.data.order import SampleOrder
from dlrm.distributed.world import World
from dlrm.files import written_beside
from dlrm.run.secondary import Warn, secondary
from dlrm.train.evaluator import Watcher
from dlrm.train.stepper import StepOutput


def score_columns(tasks: Sequence[str]) -> list[tuple[str, str]]:
    """Names of the columns (logit, label) of each task."""
    return [("logit", "label")] if len(tasks) == 1 else [(f"logit.{task}", f"label.{task}") for task in tasks]


WEIGHT = "weight"


class KeptScores(Watcher):
    """Writes what an evaluation scores, on rank 0; use it as a context, which gives the file its name at its end.

    Every batch is gathered, so this costs a collective a batch and holds one batch at a time. A file that cannot be written
    is told of and not kept; the evaluation goes on, on all ranks.

    Args:
        path: of the file.
        order: of the samples; tasks: their names.
        world: the ranks.
        warn: told once of a file that cannot be written, on rank 0.
        weighted: keep the samples' weights.
    """

    def __init__(
        self, path: Path, order: SampleOrder, tasks: Sequence[str], world: World, warn: Warn, *, weighted: bool = False
    ) -> None:
        self._path, self._order, self._world = path, order, world
        self._columns = [name for pair in score_columns(tasks) for name in pair] + [WEIGHT] * weighted
        self._warn, self._weighted = warn, weighted
        self._batch = 0
        self._held = ExitStack()
        self._writer: Any = None

    def __enter__(self) -> KeptScores:
        """Open the file."""
        if self._world.is_leader:
            self._attempt(self._open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it; after an error nothing is left."""
        if error is None:
            self._attempt(self._held.close)
        else:
            self._held.__exit__(kind, error, trace)

    def scored(self, output: StepOutput) -> None:
        """Take a batch: every rank's samples without padding, in the order of the ranks, which is that of the samples."""
        own = len(self._order.indices(0, self._batch, self._world.rank, self._world.size))
        self._batch += 1
        logits_BT = output.logits_BT[:own].float()
        weights_BT = output.weights_BT[:own]
        labels_BT = output.labels_BT[:own].masked_fill(weights_BT == 0, torch.nan)
        columns_BK = torch.stack((logits_BT, labels_BT), dim=2).flatten(1)
        if self._weighted:  # tasks differ in it only where a label is missing
            columns_BK = torch.cat((columns_BK, weights_BT.float().amax(1, keepdim=True)), dim=1)
        gathered = self._world.collectives.all_gather_object(columns_BK.cpu().numpy())
        if self._writer is not None:
            self._attempt(lambda: self._write(gathered))

    def _open(self) -> None:
        import pyarrow.parquet

        fields = [(name, pyarrow.float32()) for name in self._columns]
        file = self._held.enter_context(written_beside(self._path, durable=False))
        self._writer = self._held.enter_context(pyarrow.parquet.ParquetWriter(file, pyarrow.schema(fields)))

    def _write(self, gathered: Sequence[Any]) -> None:
        import pyarrow

        arrays = [
            pyarrow.concat_arrays([_column(part_BK[:, k]) for part_BK in gathered]) for k in range(len(self._columns))
        ]
        self._writer.write_batch(pyarrow.record_batch(arrays, schema=self._writer.schema))

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do it; after an error, there is no file any more, and nothing is written."""
        with secondary(self._path, self._warn):
            try:
                action()
            except Exception:
                if self._writer is not None:
                    self._writer.is_open = False  # or it tries to write the rest, now and when it is collected
                    self._writer = None
                with suppress(Exception):  # to close the file may fail for the same reason
                    self._held.__exit__(*sys.exc_info())
                with suppress(OSError):
                    self._path.unlink(missing_ok=True)  # of an earlier process of the run, whose model was another
                raise


def _column(values_B: Any) -> Any:
    """float32, null where NaN."""
    import pyarrow

    return pyarrow.array(values_B, type=pyarrow.float32(), from_pandas=True)
