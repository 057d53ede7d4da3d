"""Parquet files as inputs: raw columns, or ids, by name."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dlrm.config.predict import PredictConfig
from dlrm.data.parquet.columns import is_number, kind_of
from dlrm.data.parquet.files import FETCH_AGAIN, ParquetPart, file_identity, open_part, reading
from dlrm.errors import DataError
from dlrm.format import escaped
from dlrm.inference.predict.inputs import Block, Decoded, Input, Wanted, checked_labels, moved
from dlrm.inference.raw import Preprocessing

_READ_ROWS = 65_536


@dataclass(frozen=True)
class _Run:
    """Row groups that are read in one go: some that are one block, or one that is several.

    Attributes:
        groups: which; first_row: of them, from 0; cuts: rows of each block.
    """

    groups: tuple[int, ...]
    first_row: int
    cuts: tuple[int, ...]


class ParquetInput(Input):
    """A Parquet file.

    Args:
        config: says which labels and what is carried.
        path: the file.
        preprocessing: of the export.
        rows_per_block: the most; a block is some of the file's row groups, or a piece of one.

    Raises:
        DataError: the file cannot be read, or lacks a column or has one of another type.
    """

    def __init__(self, config: PredictConfig, path: str, preprocessing: Preprocessing, rows_per_block: int) -> None:
        self.path, self._preprocessing = path, preprocessing
        with _hints(path):
            self._part = open_part(path)
        preprocessing.from_arrow(self._part.columns.empty_table(), name=path)
        self._tasks = preprocessing.schema.tasks
        self.labelled = _has_labels(config, self._part, self._tasks)
        self.carried = tuple(_carried(name, self._part) for name in config.carry)
        names = [column.name for column in preprocessing.columns] + list(config.carry)
        self._names = list(dict.fromkeys(names + list(self._tasks) * self.labelled))
        self._runs = _runs(self._part.group_rows, rows_per_block)
        self.rows, self.blocks = self._part.rows, sum(len(run.cuts) for run in self._runs)
        _, size, mtime_ns = self._part.identity
        self.stamp = {"path": os.path.abspath(path), "bytes": size, "mtime_ns": mtime_ns}

    def read(self, wanted: Wanted) -> Iterator[Block]:
        """See :meth:`Input.read`."""
        index = 0
        for run in self._runs:
            chosen = [wanted(index + at) for at in range(len(run.cuts))]
            if any(chosen):
                yield from self._blocks(run, index, chosen)
            index += len(run.cuts)

    def _blocks(self, run: _Run, index: int, chosen: Sequence[bool]) -> Iterator[Block]:
        """The chosen blocks of a run."""
        last = max(at for at, is_chosen in enumerate(chosen) if is_chosen)
        tables, first_row = self._tables(run), run.first_row
        left = next(tables)
        for at, rows in enumerate(run.cuts[: last + 1]):
            pieces = []
            wanted_rows = rows
            while wanted_rows:
                if not left.num_rows:
                    left = next(tables)
                piece = left.slice(0, wanted_rows)
                left = left.slice(piece.num_rows)
                wanted_rows -= piece.num_rows
                if chosen[at]:
                    pieces.append(piece)
            if chosen[at]:
                table = pa.concat_tables(pieces).combine_chunks() if pieces else left.slice(0, 0)
                yield ParquetBlock(self, index + at, first_row, table)
            first_row += rows
        tables.close()

    def _tables(self, run: _Run) -> Generator[pa.Table]:
        """The rows of a run, in pieces."""
        row = run.first_row + 1
        if file_identity(self.path) != self._part.identity:
            raise DataError(self.path, "was changed while in use", hint="leave it alone and run again")
        with _hints(self.path), reading(self.path, row=row):
            with pq.ParquetFile(self.path, pre_buffer=False, page_checksum_verification=True) as file:
                batches = file.iter_batches(_READ_ROWS, row_groups=list(run.groups), columns=self._names)
                left = sum(run.cuts)
                for batch in batches:
                    left -= batch.num_rows
                    yield pa.Table.from_batches([batch])
            if left:
                raise DataError(self.path, f"its footer promises {left} rows more", row=row, hint=FETCH_AGAIN)

    def decode(self, table: pa.Table) -> Decoded:
        """Rows of the file; errors count from 1 with the first of them."""
        features = self._preprocessing.from_arrow(table, name=self.path)
        labels_BT = None
        if self.labelled:
            labels_BT = checked_labels(_labels(table, self._tasks), self._tasks, name=self.path)
        return Decoded(features, labels_BT)


class ParquetBlock(Block):
    """Rows of a file from ``first_row``, counted from 0, on."""

    def __init__(self, owner: ParquetInput, index: int, first_row: int, table: pa.Table) -> None:
        super().__init__(index, table.num_rows)
        self._owner, self._first_row, self._table = owner, first_row, table

    def decode(self, rows: slice) -> Decoded:
        """See :meth:`Block.decode`."""
        try:
            return self._owner.decode(self._table.slice(rows.start, rows.stop - rows.start))
        except DataError as error:
            raise moved(error, rows.start) from None

    def carried(self) -> list[pa.Array]:
        """See :meth:`Block.carried`."""
        return [_plain(self._table.column(field.name), field.type) for field in self._owner.carried]

    def located(self, error: DataError) -> DataError:
        """See :meth:`Block.located`."""
        return moved(error, self._first_row)


def _runs(group_rows: Sequence[int], most: int) -> tuple[_Run, ...]:
    """Divide a file: small row groups together, large ones into blocks of ``most`` rows."""
    runs: list[_Run] = []
    first_row = 0
    for group, rows in enumerate(group_rows):
        if not rows:
            continue
        before = runs[-1] if runs else None
        if before is not None and len(before.cuts) == 1 and before.cuts[0] + rows <= most:
            runs[-1] = _Run((*before.groups, group), before.first_row, (before.cuts[0] + rows,))
        else:
            cuts = tuple(min(most, rows - start) for start in range(0, rows, most))
            runs.append(_Run((group,), first_row, cuts))
        first_row += rows
    return tuple(runs)


def _has_labels(config: PredictConfig, part: ParquetPart, tasks: Sequence[str]) -> bool:
    if config.labels == "false":
        return False
    for task in tasks:
        kind, missing = kind_of(part.columns, task)
        if kind is None:
            if config.labels == "true":
                raise DataError(part.path, missing, hint="set labels to auto or false")
            return False
        if not is_number(kind):
            raise DataError(
                part.path,
                f"is {escaped(kind, 60)}, no label",
                column=task,
                hint="write 0 and 1, or set labels to false",
            )
    return True


def _carried(name: str, part: ParquetPart) -> pa.Field:
    kind, missing = kind_of(part.columns, name)
    if kind is None:
        raise DataError(part.path, missing, hint="carry names columns of the input")
    return pa.field(name, kind)


def _plain(values: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """The values without a dictionary."""
    joined = values.combine_chunks()
    return joined.cast(kind) if joined.type != kind else joined


def _labels(table: pa.Table, tasks: Sequence[str]) -> torch.Tensor:
    """float32 (B, T), NaN where null."""
    found_BT = np.empty((table.num_rows, len(tasks)), np.float32)
    for at, task in enumerate(tasks):
        values = table.column(task).combine_chunks().cast(pa.float32(), safe=False)
        found_BT[:, at] = values.to_numpy(zero_copy_only=False)
    return torch.from_numpy(found_BT)


@contextmanager
def _hints(path: str) -> Iterator[None]:
    """Errors of a file without the names of options that other commands have."""
    try:
        yield
    except DataError as error:
        if "data.path" not in error.hint:
            raise
        hint = "check input and kind"
        raise DataError(error.path, error.problem, row=error.row, column=error.column, hint=hint) from None
