"""Score blocks: each becomes a part, by as many threads as there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
import torch

from dlrm.errors import DataError
from dlrm.inference.exported.predictor import Predictor
from dlrm.inference.predict.inputs import Block, Decoded, Input
from dlrm.inference.predict.work import PART, WorkFolder
from dlrm.preprocess.worker_pool import WorkerPool
from dlrm.progress import Progress

_ROWS_AT_ONCE = 8192
LOGIT, LABEL, CARRIED = "logit", "label", "carried"
"""What the names of a part's columns begin with; numbers follow."""


@dataclass(frozen=True)
class Share:
    """What a rank does.

    Attributes:
        inputs: all of them; work: where parts are.
        rank, world_size: who it is; threads: that score at a time.
        bad_rows: what becomes of rows that cannot be read; chunk_rows: rows of a block, about.
    """

    inputs: Sequence[Input]
    work: WorkFolder
    rank: int
    world_size: int
    threads: int
    bad_rows: Literal["error", "skip"]
    chunk_rows: int

    def owner(self, number: int, block: int) -> int:
        """The rank that scores a block.

        Consecutive blocks where it is known how many there are, since those of one row group are decoded together.
        """
        if self.inputs[number].blocks is None:
            return (number + block) % self.world_size
        known = [item.blocks or 0 for item in self.inputs]
        return (sum(known[:number]) + block) * self.world_size // sum(known)

    @property
    def rows(self) -> int:
        """Rows of this rank, at least about."""
        return sum(item.rows for item in self.inputs) // self.world_size

    @property
    def rows_done(self) -> int:
        """Rows of this rank that were done earlier, about."""
        done = sum(path.suffix == PART for path in self.work.path.iterdir()) // self.world_size
        return min(self.rows, done * self.chunk_rows)


def score(share: Share, predictor: Callable[[], Predictor], progress: Progress) -> int:
    """Score what is this rank's and not done yet, and return how many rows that were.

    Args:
        share: what that is.
        predictor: loads the model, when the first block is there.
        progress: is told of rows.

    Raises:
        DataError: an input or a row cannot be read.

    Whatever ends it, a full disk too, other ranks end with the block that they have.
    """
    rows = 0
    try:
        with WorkerPool(share.threads) as pool:
            for done in pool.each(_tasks(share, predictor)):
                progress.advance(done)
                rows += done
    except Exception:
        share.work.stop()
        raise
    return rows


def _tasks(share: Share, predictor: Callable[[], Predictor]) -> Iterator[Callable[[], int]]:
    """What there is to do, as it is read."""
    for number, item in enumerate(share.inputs):
        wanted = _Wanted(share, number)
        known = item.blocks if item.blocks is not None else share.work.blocks(number)
        if known is not None and not any(map(wanted, range(known))):
            continue
        for block in item.read(wanted):
            if share.work.is_stopped:
                return
            yield partial(_finish, share, number, block, predictor())
        if known is None:
            share.work.write_count(number, wanted.blocks)


@dataclass
class _Wanted:
    """Which blocks of an input this rank has to score, and how many it was asked about."""

    share: Share
    number: int
    blocks: int = 0

    def __call__(self, block: int) -> bool:
        self.blocks = max(self.blocks, block + 1)
        mine = self.share.owner(self.number, block) == self.share.rank
        return mine and not self.share.work.part(self.number, block).exists()


def _finish(share: Share, number: int, block: Block, predictor: Predictor) -> int:
    table = part_of(block, predictor, labelled=share.inputs[number].labelled, bad_rows=share.bad_rows)
    with share.work.writing(share.work.part(number, block.index)) as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table)
    return block.rows


def part_of(block: Block, predictor: Predictor, *, labelled: bool, bad_rows: Literal["error", "skip"]) -> pa.Table:
    """The results of a block: logits (null of a row that was skipped), labels (null where missing), what is carried."""
    torch.set_num_threads(1)  # of each thread its own
    tasks = len(predictor.schema.tasks)
    logits_MT = np.zeros((block.rows, tasks), np.float32)
    labels_MT = np.full((block.rows, tasks), np.nan, np.float32)
    good_M = np.zeros(block.rows, np.bool_)
    for start in range(0, block.rows, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, block.rows)
        for rows, decoded in _decoded(block, start, stop, skip=bad_rows == "skip"):
            logits_MT[rows] = predictor.logits(decoded.features).numpy()
            good_M[rows] = True
            if decoded.labels_BT is not None:
                labels_MT[rows] = decoded.labels_BT.numpy()
    columns = {f"{LOGIT}{t}": pa.array(logits_MT[:, t], mask=~good_M) for t in range(tasks)}
    if labelled:
        columns |= {f"{LABEL}{t}": pa.array(labels_MT[:, t]) for t in range(tasks)}
    return pa.table(columns | {f"{CARRIED}{i}": values for i, values in enumerate(block.carried())})


def _decoded(block: Block, start: int, stop: int, *, skip: bool) -> Iterator[tuple[slice, Decoded]]:
    """Rows of a block in pieces, without those that cannot be read; where one is, the next are tried a few at a time."""
    size = stop - start
    while start < stop:
        rows = slice(start, min(start + size, stop))
        try:
            yield rows, block.decode(rows)
            start, size = rows.stop, 2 * size
        except DataError as error:
            if error.row is None:
                raise
            if not skip:
                raise _told(block.located(error)) from None
            bad = error.row - 1
            if bad > start:
                yield slice(start, bad), block.decode(slice(start, bad))
            start, size = bad + 1, 1


def _told(error: DataError) -> DataError:
    hint = f"{error.hint}; bad_rows skip goes on without such rows" if error.hint else "set bad_rows to skip"
    return DataError(error.path, error.problem, row=error.row, column=error.column, hint=hint)
