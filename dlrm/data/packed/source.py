"""One split of a packed data set, read straight from the mapped files.

A sample's index counts through the split's *spans* (rows of parts), one after the other. Indices that follow each other are
copied as slices, others are gathered; only the pages of the samples that are asked for are touched. Nothing is kept
between reads, so that any number of threads may read at once.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.config.data.packed import BadRows
from dlrm.data.fingerprint import FileFingerprint, fingerprint_of
from dlrm.data.packed.arrays import MappedFile
from dlrm.data.packed.folder import PackedPart
from dlrm.data.packed.manifest import FileKind
from dlrm.data.packed.split import Span
from dlrm.data.source import Day, Samples, Source
from dlrm.schema import Schema

MISSING = -1
"""Stands for a missing label where there are several tasks."""
_SHORTEST_RUN = 16  # samples, on average; below it a gather is faster than slices


@dataclass(frozen=True)
class _Piece:
    """Samples of one span: their places in what is read, and their rows in the part."""

    span: int
    at: slice | NDArray[np.int64]
    rows: slice | NDArray[np.int64]


class PackedSource(Source):
    """A split of a packed data set.

    Args:
        name: how messages call it.
        schema: the columns of a sample; multi-hot where the parts were opened so.
        parts: of the data set.
        spans: the split's rows, each of one of ``parts``.
        bad_rows: what becomes of bad values.
    """

    def __init__(
        self,
        name: str,
        schema: Schema,
        parts: Sequence[PackedPart],
        spans: Sequence[Span],
        bad_rows: BadRows = "error",
    ) -> None:
        by_name = {part.name: part for part in parts}
        super().__init__(name, schema, sum(map(len, spans)))
        self.bad_rows = bad_rows
        self._spans = [span for span in spans if len(span)]
        self._parts = [by_name[span.part] for span in self._spans]
        self._id_type = np.result_type(np.int32, *(ids_ML.dtype for part in self._parts for ids_ML in _ids(part)))
        self._ends = np.cumsum([len(span) for span in self._spans], dtype=np.int64)
        self._shifts = [span.stop - int(end) for span, end in zip(self._spans, self._ends, strict=True)]  # index -> row

    def read(self, index_B: torch.Tensor) -> Samples:
        """The samples at these indices (int64 (B,)), in this order.

        Raises:
            DataError: a file was written to since it was opened.
        """
        size = len(index_B)
        dense_BN = np.empty((size, len(self.schema.dense)), dtype=np.float32)
        ids_BS = np.empty((size, self.schema.ids_per_sample), dtype=self._id_type)
        labels_BT = np.empty((size, len(self.schema.tasks)), dtype=np.float32)
        weights_B1 = np.empty((size, 1), dtype=np.float32) if self.schema.sample_weight else None
        checked = set[int]()
        for piece in self._pieces(index_B.numpy()):
            part = self._parts[piece.span]
            if piece.span not in checked:
                _check_unchanged(part)
                checked.add(piece.span)
            _copy_rows(part.files["dense"], part.dense_MN, piece, dense_BN)
            _copy_rows(part.files["labels"], part.labels_MT, piece, labels_BT)
            if weights_B1 is not None and part.weights_M1 is not None:
                _copy_rows(part.files["weights"], part.weights_M1, piece, weights_B1)
            column = 0
            for ids_ML in _ids(part):
                _copy_rows(part.files[_id_kind(part)], ids_ML, piece, ids_BS[:, column : column + ids_ML.shape[1]])
                column += ids_ML.shape[1]
        if len(self.schema.tasks) > 1:
            labels_BT[labels_BT == MISSING] = np.nan
        weights_B = None if weights_B1 is None else torch.from_numpy(weights_B1[:, 0])
        dense, ids, labels = map(torch.from_numpy, (dense_BN, ids_BS, labels_BT))
        return Samples(dense, ids, labels, weights_B=weights_B)

    @property
    def days(self) -> tuple[Day, ...]:
        """The parts; rows of a part that follow each other are one day."""
        runs = itertools.groupby(self._spans, key=lambda span: span.part)
        return tuple(Day(part, sum(map(len, spans))) for part, spans in runs)

    def locate(self, index: int, column: str) -> tuple[str, int]:
        """The file that holds ``column`` (a name of the schema) of a sample, and its 1-based row there.

        Raises:
            DataError: the file was written to since it was opened, so that what was read there may be half of each.
        """
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self._parts[number]
        kind = _id_kind(part)
        if column in self.schema.tasks:
            kind = "labels"
        elif column in self.schema.dense:
            kind = "dense"
        elif column and column == self.schema.sample_weight:
            kind = "weights"
        part.files[kind].check_unchanged()
        return part.paths[kind], index + self._shifts[number] + 1

    def check_unchanged(self) -> None:
        """Make sure that the files are still what was opened.

        Raises:
            DataError: a file was written to meanwhile.
        """
        for part in self._parts:
            _check_unchanged(part)

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """The files of each span, with the checksums of dataset.json where there is one."""
        return tuple(
            fingerprint_of(
                part.paths[kind],
                os.path.basename(part.paths[kind]),
                sha256=part.checksums.get(kind, ""),
                rows="" if len(span) == part.rows else f"{span.start} .. {span.stop - 1}",
            )
            for span, part in zip(self._spans, self._parts, strict=True)
            for kind in _kinds(part)
        )

    def _pieces(self, index_B: NDArray[np.int64]) -> Iterator[_Piece]:
        if not len(index_B):
            return
        if index_B.min() < 0 or index_B.max() >= self.num_samples:
            raise IndexError(f"an index lies outside of 0 .. {self.num_samples - 1}")
        span_B = np.searchsorted(self._ends, index_B, side="right")
        breaks = np.flatnonzero((np.diff(index_B) != 1) | (np.diff(span_B) != 0)) + 1
        if (len(breaks) + 1) * _SHORTEST_RUN <= len(index_B):
            for start, stop in zip([0, *breaks], [*breaks, len(index_B)], strict=True):
                span, first = int(span_B[start]), int(index_B[start])
                row = first + self._shifts[span]
                yield _Piece(span, slice(start, stop), slice(row, row + int(stop - start)))
            return
        for span in np.flatnonzero(np.bincount(span_B)).tolist():
            whole = span_B[0] == span and (span_B == span).all()
            at = slice(None) if whole else np.flatnonzero(span_B == span)
            yield _Piece(span, at, index_B[at] + self._shifts[span])


def _check_unchanged(part: PackedPart) -> None:
    for file in part.files.values():
        file.check_unchanged()


def _ids(part: PackedPart) -> tuple[NDArray[np.int32] | NDArray[np.int64], ...]:
    """The arrays whose columns, one after the other, are the ids of a sample."""
    return part.multi_hot if part.multi_hot is not None else (part.sparse_MF,)


def _kinds(part: PackedPart) -> tuple[FileKind, ...]:
    """The files that samples are read from."""
    kinds: tuple[FileKind, ...] = ("dense", _id_kind(part), "labels")
    return kinds if part.weights_M1 is None else (*kinds, "weights")


def _id_kind(part: PackedPart) -> FileKind:
    return "sparse" if part.multi_hot is None else "multi_hot"


def _copy_rows(file: MappedFile, source_MX: NDArray[Any], piece: _Piece, out_BX: NDArray[Any]) -> None:
    """Copy rows of a mapped array of ``file`` to their places, converting to the type of ``out_BX``."""
    if isinstance(piece.rows, slice):
        file.will_need(source_MX[piece.rows])
        out_BX[piece.at] = source_MX[piece.rows]
    elif isinstance(piece.at, slice) and source_MX.dtype == out_BX.dtype and source_MX.flags.aligned:
        np.take(source_MX, piece.rows, axis=0, out=out_BX[piece.at], mode="clip")  # the mode that needs no buffer
    else:
        out_BX[piece.at] = _take(source_MX, piece.rows)


def _take(source_MX: NDArray[Any], rows_B: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of an array; of one inside an archive as bytes, since np.take would first copy all of an unaligned array."""
    if source_MX.flags.aligned:
        return np.take(source_MX, rows_B, axis=0)
    return np.take(source_MX.view(np.uint8), rows_B, axis=0).view(source_MX.dtype)
