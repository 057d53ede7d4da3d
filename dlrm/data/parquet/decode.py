"""A row group as arrays: what is stored compressed and by column becomes compact and by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dlrm.config.data.packed import BadRows
from dlrm.data.parquet.columns import ColumnMap
from dlrm.data.parquet.files import ParquetPart, file_identity, reading
from dlrm.data.parquet.ids import NO_ID, as_ids, as_vocabulary_ids, looked_up
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
        weights_M: float32 (M,), NaN where null; None where samples have none.
        id_weights_MS: float32 (M, S), NaN where null, 0 beyond a bag's end, 1 for features whose ids have no weights; None
            where those of no feature have.
    """

    dense_MN: NDArray[np.float32]
    ids_MS: NDArray[np.int32] | NDArray[np.int64]
    labels_MT: NDArray[np.float32]
    lengths_MF: NDArray[np.int32] | None = None
    weights_M: NDArray[np.float32] | None = None
    id_weights_MS: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in vars(self).values() if array is not None)

    def take(self, rows_B: NDArray[np.int64]) -> DecodedGroup:
        """A copy of the samples at these places, in this order."""
        arrays: dict[str, Any] = vars(self)
        taken = {name: array.take(rows_B, axis=0) for name, array in arrays.items() if array is not None}
        return DecodedGroup(**taken)


def joined(groups: Sequence[DecodedGroup]) -> DecodedGroup:
    """The samples of groups of one schema, one group after the other; at least one group."""
    if len(groups) == 1:
        return groups[0]
    there = [name for name, array in vars(groups[0]).items() if array is not None]  # in all groups
    parts: dict[str, Any] = {name: np.concatenate([getattr(group, name) for group in groups]) for name in there}
    return DecodedGroup(**parts)


def no_samples(schema: Schema) -> DecodedGroup:
    """A group of no samples."""
    return DecodedGroup(
        dense_MN=np.empty((0, len(schema.dense)), np.float32),
        ids_MS=np.empty((0, schema.ids_per_sample), np.int32),
        labels_MT=np.empty((0, len(schema.tasks)), np.float32),
        weights_M=np.empty(0, np.float32) if schema.sample_weight else None,
        id_weights_MS=np.empty((0, schema.ids_per_sample), np.float32) if schema.ids_have_weights else None,
    )


def decode_group(part: ParquetPart, group: int, columns: ColumnMap) -> DecodedGroup:
    """Read one row group in the calling thread, a column at a time, so that little more than the result is in memory.

    Raises:
        DataError: the file was changed since it was opened or is damaged, a bag is longer than its hotness, an id is
            beyond int64.
    """
    _raise_if_changed(part)
    reader = GroupReader(part, group)
    schema = columns.schema
    dense_MN = read_numbers(reader, schema.dense)
    dense_MN[np.isnan(dense_MN)] = columns.dense_missing
    ids_MS, lengths_MF = read_ids(reader, columns)
    labels_MT = read_numbers(reader, schema.tasks)
    weights_M = read_numbers(reader, [schema.sample_weight])[:, 0] if schema.sample_weight else None
    id_weights_MS = read_id_weights(reader, columns) if schema.ids_have_weights else None
    reader.close()
    _raise_if_changed(part)
    return DecodedGroup(dense_MN, ids_MS, labels_MT, lengths_MF, weights_M, id_weights_MS)


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


class GroupReader:
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
        """The error of what is in a column of row ``at`` of the group, counted from 0."""
        return DataError(self.path, problem, row=self.first_row + at, column=column, hint=hint)

    def close(self) -> None:
        """No more columns are read."""
        self._file.close()


def _raise_if_changed(part: ParquetPart) -> None:
    if file_identity(part.path) != part.identity:
        raise DataError(part.path, "was changed while in use", hint="start again, and leave data alone that is read")


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
            ids_ML, lengths_M = _bags(reader, values, feature, columns)
            assert lengths_MF is not None  # some column holds lists
            lengths_MF[:, i] = lengths_M
        else:
            ids_ML = _ids(reader, values, feature, columns)[:, None]
        if ids_MS.dtype == np.int32 and _needs_int64(ids_ML):
            ids_MS = ids_MS.astype(np.int64)  # an id outside of its table, kept as it is for whoever judges it
        ids_MS[:, at : at + feature.hotness] = ids_ML
        at += feature.hotness
    return ids_MS, lengths_MF


def read_id_weights(reader: ColumnReader, columns: ColumnMap) -> NDArray[np.float32]:
    """``id_weights_MS`` of :class:`DecodedGroup`.

    Raises:
        DataError: a row has another number of weights than of ids, and such rows are not skipped.
    """
    weights_MS = np.ones((reader.rows, columns.schema.ids_per_sample), np.float32)
    at = 0
    for feature in columns.schema.sparse:
        own_ML = weights_MS[:, at : at + feature.hotness]
        if feature.weights and feature.name in columns.lists:
            own_ML[:] = _bag_weights(reader, feature, columns.bad_rows)
        elif feature.weights:
            own_ML[:] = read_numbers(reader, [feature.weights])
        at += feature.hotness
    return weights_MS


def _bag_weights(reader: ColumnReader, feature: SparseFeature, bad_rows: BadRows) -> NDArray[np.float32]:
    """float32 (M, hotness): the weights of each bag, 0 beyond its end; NaN first where they are not as many as its ids.

    What a longer list than that has beyond is left out: its ids are refused or skipped.
    """
    ids, values = reader.column(feature.name), reader.column(feature.weights)
    ids_M, weights_M = _list_lengths(ids), _list_lengths(values)
    unequal_M = ids_M != weights_M
    if unequal_M.any() and bad_rows != "skip":
        at = int(unequal_M.argmax())
        problem = f"has {weights_M[at]} weights for the {ids_M[at]} ids of {feature.name}"
        raise reader.error(at, feature.weights, problem, "give each id one weight, or set data.bad_rows to skip")
    found_ML = np.zeros((reader.rows, feature.hotness), np.float32)
    if weights_M.any():
        flat = np.array(pc.fill_null(values.flatten().cast(pa.float32(), safe=False), np.nan), np.float32)
        starts_M = weights_M.cumsum() - weights_M
        place_W = np.arange(len(flat)) - np.repeat(starts_M, weights_M)
        found_ML[np.arange(feature.hotness) < weights_M[:, None]] = flat[place_W < feature.hotness]
    found_ML[unequal_M, 0] = np.nan
    return found_ML


def _list_lengths(values: pa.Array) -> NDArray[np.int64]:
    """int64 (M,), 0 for a null list."""
    if pa.types.is_null(values.type):
        return np.zeros(len(values), np.int64)
    lengths_M: NDArray[np.int64] = (
        pc.fill_null(pc.list_value_length(values), 0).cast(pa.int64()).to_numpy(zero_copy_only=False)
    )
    return lengths_M


def _needs_int64(ids: NDArray[np.int64]) -> bool:
    return bool(ids.size) and (int(ids.max()) > _INT32_MAX or int(ids.min()) < -_INT32_MAX)


def _ids(
    reader: ColumnReader,
    values: pa.Array,
    feature: SparseFeature,
    columns: ColumnMap,
    row_of: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """int64 (M,), as :func:`~dlrm.data.parquet.ids.as_ids` says, or by the column's vocabulary.

    Args:
        reader: for messages.
        values: numbers of any type, or nulls.
        feature: whose ids they are.
        columns: have the vocabularies, and say what to do about what is no id.
        row_of: row (from 0) of each value, where that is not its place.
    """

    def refuse(at: int, problem: str, hint: str) -> DataError:
        return reader.error(at if row_of is None else int(row_of[at]), feature.name, problem, hint)

    if (vocabulary := columns.vocabularies.get(feature.name)) is not None:
        return as_vocabulary_ids(values, vocabulary)
    return as_ids(looked_up(values), rows=feature.rows, bad_rows=columns.bad_rows, refuse=refuse)


def _bags(
    reader: ColumnReader, values: pa.Array, feature: SparseFeature, columns: ColumnMap
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids (M, hotness), 0 beyond a bag's end, and lengths (M,); a null list is an empty bag.

    A list longer than that is cut at its older end where it is known which that is. Otherwise it is an error or, where bad
    rows are skipped, the bag of :data:`NO_ID` alone.
    """
    if pa.types.is_null(values.type):
        return np.zeros((reader.rows, feature.hotness), np.int64), np.zeros(reader.rows, np.int64)
    lengths_M, flat = _list_lengths(values), values.flatten()
    if newest := columns.newest.get(feature.name):
        flat, lengths_M = _cut(flat, lengths_M, feature.hotness, newest)
    long_M = lengths_M > feature.hotness
    if long_M.any() and columns.bad_rows != "skip":
        at = int(long_M.argmax())
        problem = f"has {lengths_M[at]} ids, more than hotness {feature.hotness}"
        raise reader.error(
            at, feature.name, problem, "shorten the list, or train with a larger data.hotness of the column"
        )
    row_of = np.repeat(np.arange(reader.rows), lengths_M)
    ids = _ids(reader, flat, feature, columns, row_of)
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
