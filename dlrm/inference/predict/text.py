"""Raw files of Criteo's format as inputs: tab separated text, plain or compressed, with labels or without."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dlrm.config.predict import PredictConfig
from dlrm.data.raw.tsv_file import MAX_LINE_BYTES
from dlrm.errors import DataError
from dlrm.format import did_you_mean, escaped
from dlrm.inference.predict.inputs import Block, Decoded, Input, Wanted, moved
from dlrm.inference.raw import Preprocessing
from dlrm.preprocess.job_context import extent_of
from dlrm.preprocess.sources import SourceFile, first_row, text_chunks

BYTES_PER_ROW = 256
_TAB, _NEWLINE, _RETURN = b"\t\n\r"

Bytes = NDArray[np.uint8]
Int64s = NDArray[np.int64]


class TextInput(Input):
    """A raw file.

    Args:
        config: says which labels and what is carried.
        source: the file.
        preprocessing: of the export, of Criteo's format.
        block_bytes: of text, before a block is extended to whole lines.

    Raises:
        DataError: the file cannot be read, has another number of columns, or lacks one that is to be carried.
    """

    def __init__(
        self, config: PredictConfig, source: SourceFile, preprocessing: Preprocessing, block_bytes: int
    ) -> None:
        self.path, self._source, self._block_bytes = source.path, source, block_bytes
        self._preprocessing = preprocessing
        preprocessing.from_tsv(b"", labelled=False, name=source.path)  # refuses models that take no such rows
        names = [column.name for column in preprocessing.columns]
        self.labelled = config.labels == "true"
        if config.labels == "auto":
            self.labelled = _first_width(source) != len(names)
        self._columns = ["label"] * self.labelled + names
        for name in config.carry:
            if name not in self._columns:
                hint = (
                    did_you_mean(name, self._columns) or f"there are {', '.join(map(escaped, self._columns[:5]))}, .."
                )
                raise DataError(source.path, f"has no column {escaped(name, 40)} to carry", hint=hint)
        self.carried = tuple(pa.field(name, pa.string()) for name in config.carry)
        self.rows, self.blocks = extent_of(source).rows, None
        mtime_ns = os.stat(source.path).st_mtime_ns
        self.stamp = {"path": os.path.abspath(source.path), "bytes": source.bytes, "mtime_ns": mtime_ns}

    def read(self, wanted: Wanted) -> Iterator[Block]:
        """See :meth:`Input.read`."""
        for chunk in text_chunks(self._source, self._block_bytes, wanted):
            yield TextBlock(self, chunk.index, chunk.lines)

    def decode(self, lines: bytes) -> Decoded:
        """Whole lines; errors count from 1 with the first of them."""
        return Decoded(*self._preprocessing.from_tsv(lines, labelled=self.labelled, name=self.path))

    def fields(self, lines: bytes) -> list[pa.Array]:
        """The columns to carry."""
        return _fields(lines, [self._columns.index(field.name) for field in self.carried], len(self._columns))

    def located(self, error: DataError, index: int) -> DataError:
        """An error in a block, its row counted from the start of the file."""
        return moved(error, first_row(self._source, self._block_bytes, index) - 1)


class TextBlock(Block):
    """Whole lines."""

    def __init__(self, owner: TextInput, index: int, lines: bytes) -> None:
        self._owner, self._lines = owner, lines
        self._ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == _NEWLINE) + 1
        super().__init__(index, len(self._ends))

    def decode(self, rows: slice) -> Decoded:
        """See :meth:`Block.decode`."""
        start = int(self._ends[rows.start - 1]) if rows.start else 0
        try:
            return self._owner.decode(self._lines[start : int(self._ends[rows.stop - 1])])
        except DataError as error:
            raise moved(error, rows.start) from None

    def carried(self) -> list[pa.Array]:
        """See :meth:`Block.carried`."""
        return self._owner.fields(self._lines)

    def located(self, error: DataError) -> DataError:
        """See :meth:`Block.located`."""
        return self._owner.located(error, self.index)


def _first_width(source: SourceFile) -> int:
    """How many columns the first row has."""
    first = next(text_chunks(source, MAX_LINE_BYTES, lambda index: index == 0))
    return first.lines.partition(b"\n")[0].count(b"\t") + 1


def _fields(lines: bytes, columns: Sequence[int], width: int) -> list[pa.Array]:
    """Columns as text; null in rows that have not so many columns as ``width``."""
    if not columns:
        return []
    buffer = np.frombuffer(lines, np.uint8)
    separators = np.flatnonzero((buffer == _TAB) | (buffer == _NEWLINE))
    last_B = np.flatnonzero(buffer[separators] == _NEWLINE)
    good_B = np.diff(last_B, prepend=-1) == width
    starts = np.concatenate([np.zeros(1, np.int64), separators + 1])
    found = []
    for column in columns:
        at_B = np.where(good_B, last_B - width + 1 + column, 0)
        starts_B, ends_B = starts[at_B], separators[at_B]
        if column == width - 1:
            ends_B = ends_B - ((ends_B > starts_B) & (buffer[ends_B - 1] == _RETURN))
        found.append(_text(buffer, starts_B, np.where(good_B, ends_B, starts_B), good_B))
    return found


def _text(buffer: Bytes, starts_B: Int64s, ends_B: Int64s, good_B: NDArray[np.bool_]) -> pa.Array:
    """Pieces of a buffer as text, null where not good."""
    lengths_B = ends_B - starts_B
    offsets = np.concatenate([np.zeros(1, np.int64), lengths_B.cumsum()])
    places = np.repeat(starts_B - offsets[:-1], lengths_B) + np.arange(offsets[-1])
    data = buffer[places].tobytes()
    text = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(lengths_B), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    try:
        values = text.cast(pa.string())
    except pa.ArrowInvalid:  # rows that cannot be read, and are skipped
        values = pa.array([value.decode(errors="backslashreplace") for value in text.to_pylist()], pa.string())
    return pa.array(values.to_pylist(), pa.string(), mask=~good_B) if not good_B.all() else values
