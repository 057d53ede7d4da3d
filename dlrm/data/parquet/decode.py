"""A row group as arrays: what is stored compressed and by column becomes compact and by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dlrm.config.data.packed import BadRows
from dlrm.data.parquet.columns import ColumnMap
from dlrm.data.parquet.files import ParquetPart, file_identity, reading
from dlrm.data.parquet.ids import NO_ID, as_ids
from dlrm.errors import DataError
from dlrm.schema import Schema, SparseFeature

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class DecodedGroup:
    """M samples.

    Attributes:
        dense_MN: float32 (M, N).
        ids_MS: int32, or int64 where an id or a table needs it, (M, S), S = schema.ids_per_sample; 0 beyond a bag's end.
        labels_MT: float32 (M, T); NaN where null.
        lengths_MF: int32 (M, F), ids of each bag; None where no column holds lists.
    """

    dense_MN: NDArray[np.float32]
    ids_MS: NDArray[np.int32] | NDArray[np.int64]
    labels_MT: NDArray[np.float32]
    lengths_MF: NDArray[np.int32] | None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        lengths = 0 if self.lengths_MF is None else self.lengths_MF.nbytes
        return self.dense_MN.nbytes + self.ids_MS.nbytes + self.labels_MT.nbytes + lengths

    def take(self, rows_B: NDArray[np.int64]) -> DecodedGroup:
        """A copy of the samples at these places, in this order."""
        return DecodedGroup(
            dense_MN=self.dense_MN.take(rows_B, axis=0),
            ids_MS=self.ids_MS.take(rows_B, axis=0),
            labels_MT=self.labels_MT.take(rows_B, axis=0),
            lengths_MF=None if self.lengths_MF is None else self.lengths_MF.take(rows_B, axis=0),
        )


def joined(groups: Sequence[DecodedGroup]) -> DecodedGroup:
    """The samples of groups of one schema, one group after the other; at least one group."""
    if len(groups) == 1:
        return groups[0]
    lengths = [group.lengths_MF for group in groups if group.lengths_MF is not None]  # of all groups or of none
    return DecodedGroup(
        dense_MN=np.concatenate([group.dense_MN for group in groups]),
        ids_MS=np.concatenate([group.ids_MS for group in groups]),
        labels_MT=np.concatenate([group.labels_MT for group in groups]),
        lengths_MF=np.concatenate(lengths) if lengths else None,
    )


def no_samples(schema: Schema) -> DecodedGroup:
    """A group of no samples."""
    return DecodedGroup(
        dense_MN=np.empty((0, len(schema.dense)), np.float32),
        ids_MS=np.empty((0, schema.ids_per_sample), np.int32),
        labels_MT=np.empty((0, len(schema.tasks)), np.float32),
        lengths_MF=None,
    )


def decode_group(part: ParquetPart, group: int, columns: ColumnMap) -> DecodedGroup:
    """Read one row group in the calling thread, a column at a time, so that little more than the result is in memory.

    Raises:
        DataError: the file was changed since it was opened or is damaged, a bag is longer than its hotness, an id is
            beyond int64.
    """
    _raise_if_changed(part)
    reader = _GroupReader(part, group)
    schema = columns.schema
    dense_MN = read_numbers(reader, schema.dense)
    dense_MN[np.isnan(dense_MN)] = columns.dense_missing
    ids_MS, lengths_MF = read_ids(reader, columns)
    labels_MT = read_numbers(reader, schema.tasks)
    reader.close()
    _raise_if_changed(part)
    return DecodedGroup(dense_MN, ids_MS, labels_MT, lengths_MF)


class ColumnReader(Protocol):
    """Columns of some rows.

    Attributes:
        rows: how many.
    """

    rows: int

    def column(self, name: str) -> pa.Array:
        """The values of a column, those of a dictionary looked up."""

    def error(self, at: int, column: str, problem: str, hint: str) -> DataError:
        """The error of what is in a column of row ``at``, counted from 0."""


class _GroupReader:
    """The columns of a row group. pyarrow's readers are not made for several threads: each decoding has its own."""

    def __init__(self, part: ParquetPart, group: int) -> None:
        self.path = part.path
        self.rows = part.group_rows[group]
        self.first_row = sum(part.group_rows[:group]) + 1
        self.columns = part.columns
        self._group = group
        with reading(part.path):
            self._file = pq.ParquetFile(part.path, pre_buffer=False, page_checksum_verification=True)

    def column(self, name: str) -> pa.Array:
        """The values of a column, those of a dictionary looked up."""
        with reading(self.path, row=self.first_row, column=name):
            table = self._file.read_row_group(self._group, columns=[name], use_threads=False)
            values = table.column(name).combine_chunks()
        if len(values) != self.rows:
            problem = f"row group {self._group} holds {len(values)} rows, the footer says {self.rows}"
            raise DataError(self.path, problem, row=self.first_row, column=name, hint="write or fetch the file again")
        return looked_up(values)

    def error(self, at: int, column: str, problem: str, hint: str) -> DataError:
        return DataError(self.path, problem, row=self.first_row + at, column=column, hint=hint)

    def close(self) -> None:
        self._file.close()


def _raise_if_changed(part: ParquetPart) -> None:
    if file_identity(part.path) != part.identity:
        raise DataError(part.path, "was changed while in use", hint="start again, and leave data alone that is read")


def looked_up(values: pa.Array) -> pa.Array:
    """The values of a dictionary's codes; any others as they are."""
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def read_numbers(reader: ColumnReader, names: Sequence[str]) -> NDArray[np.float32]:
    """The values of these columns side by side, float32 (M, columns); NaN where null."""
    found_MX = np.empty((reader.rows, len(names)), np.float32)
    for i, name in enumerate(names):
        numbers = reader.column(name).cast(pa.float32(), safe=False)
        if numbers.null_count:
            numbers = pc.fill_null(numbers, pa.scalar(np.nan, pa.float32()))
        found_MX[:, i] = numbers.to_numpy(zero_copy_only=False)
    return found_MX


def read_ids(
    reader: ColumnReader, columns: ColumnMap
) -> tuple[NDArray[np.int32] | NDArray[np.int64], NDArray[np.int32] | None]:
    """``ids_MS`` and ``lengths_MF`` of :class:`DecodedGroup`."""
    features = columns.schema.sparse
    wide = max(feature.rows for feature in features) - 1 > _INT32_MAX
    shape = reader.rows, columns.schema.ids_per_sample
    ids_MS: NDArray[np.int32] | NDArray[np.int64] = np.empty(shape, np.int64) if wide else np.empty(shape, np.int32)
    lengths_MF = np.ones((reader.rows, len(features)), np.int32) if columns.lists else None
    at = 0
    for i, feature in enumerate(features):
        values = reader.column(feature.name)
        if feature.name in columns.lists:
            ids_ML, lengths_M = _bags(reader, values, feature, columns.bad_rows, columns.newest.get(feature.name, ""))
            assert lengths_MF is not None  # some column holds lists
            lengths_MF[:, i] = lengths_M
        else:
            ids_ML = _ids(reader, values, feature, columns.bad_rows)[:, None]
        if ids_MS.dtype == np.int32 and _needs_int64(ids_ML):
            ids_MS = ids_MS.astype(np.int64)  # an id outside of its table, kept as it is for whoever judges it
        ids_MS[:, at : at + feature.hotness] = ids_ML
        at += feature.hotness
    return ids_MS, lengths_MF


def _needs_int64(ids: NDArray[np.int64]) -> bool:
    return bool(ids.size) and (int(ids.max()) > _INT32_MAX or int(ids.min()) < -_INT32_MAX)


def _ids(
    reader: ColumnReader,
    values: pa.Array,
    feature: SparseFeature,
    bad_rows: BadRows,
    row_of: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """int64 (M,), as :func:`~dlrm.data.parquet.ids.as_ids` says.

    Args:
        reader: for messages.
        values: numbers of any type, or nulls.
        feature: whose ids they are.
        bad_rows: what to do about what is no id.
        row_of: row (from 0) of each value, where that is not its place.
    """

    def refuse(at: int, problem: str, hint: str) -> DataError:
        return reader.error(at if row_of is None else int(row_of[at]), feature.name, problem, hint)

    return as_ids(looked_up(values), rows=feature.rows, bad_rows=bad_rows, refuse=refuse)


def _bags(
    reader: ColumnReader,
    values: pa.Array,
    feature: SparseFeature,
    bad_rows: BadRows,
    newest: Literal["first", "last", ""] = "",
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids (M, hotness), 0 beyond a bag's end, and lengths (M,); a null list is an empty bag.

    A list longer than that is cut at its older end where it is known which that is. Otherwise it is an error or, where bad
    rows are skipped, the bag of :data:`NO_ID` alone.
    """
    if pa.types.is_null(values.type):
        return np.zeros((reader.rows, feature.hotness), np.int64), np.zeros(reader.rows, np.int64)
    lengths_M = pc.fill_null(pc.list_value_length(values), 0).cast(pa.int64()).to_numpy(zero_copy_only=False)
    flat = values.flatten()
    if newest:
        flat, lengths_M = _cut(flat, lengths_M, feature.hotness, newest)
    long_M = lengths_M > feature.hotness
    if long_M.any() and bad_rows != "skip":
        at = int(long_M.argmax())
        problem = f"has {lengths_M[at]} ids, more than hotness {feature.hotness}"
        raise reader.error(
            at, feature.name, problem, "shorten the list, or train with a larger data.hotness of the column"
        )
    row_of = np.repeat(np.arange(reader.rows), lengths_M)
    ids = _ids(reader, flat, feature, bad_rows, row_of)
    if long_M.any():
        ids, lengths_M = ids[~long_M[row_of]], np.where(long_M, 0, lengths_M)
    elif len(ids) == reader.rows * feature.hotness:
        return ids.reshape(reader.rows, feature.hotness), lengths_M
    ids_ML = np.zeros((reader.rows, feature.hotness), np.int64)
    ids_ML[np.arange(feature.hotness) < lengths_M[:, None]] = ids  # row by row, as the ids follow each other
    ids_ML[long_M, 0] = NO_ID
    return ids_ML, np.where(long_M, 1, lengths_M)


def _cut(
    flat: pa.Array, lengths_M: NDArray[np.int64], most: int, newest: Literal["first", "last"]
) -> tuple[pa.Array, NDArray[np.int64]]:
    """The newest values of each list, in their order, and how many they are.

    Args:
        flat: the values of all lists, one list after the other.
        lengths_M: of each list.
        most: of a list are kept.
        newest: which end of a list.
    """
    kept_M = np.minimum(lengths_M, most)
    if (kept_M == lengths_M).all():
        return flat, lengths_M
    skipped_M = lengths_M - kept_M if newest == "last" else np.zeros_like(kept_M)
    first_M = lengths_M.cumsum() - lengths_M + skipped_M  # of what is kept, in flat
    place_N = np.arange(kept_M.sum()) + np.repeat(first_M - (kept_M.cumsum() - kept_M), kept_M)
    return flat.take(pa.array(place_N)), kept_M
