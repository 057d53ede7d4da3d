"""Raw rows that are numbers and ids already: of generated data, of Parquet files, of packed data without a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from dlrm.data.parquet.columns import ColumnMap
from dlrm.data.parquet.decode import read_ids, read_numbers
from dlrm.errors import DataError
from dlrm.inference.features import Features
from dlrm.inference.raw.arrow import TableColumns
from dlrm.inference.raw.columns import RawColumn
from dlrm.inference.raw.preprocessing import Preprocessing
from dlrm.inference.raw.record import EncodedRecord
from dlrm.inference.raw.values import Read, id_reader, list_reader, number_reader
from dlrm.schema import Schema


class EncodedPreprocessing(Preprocessing):
    """Numbers are taken as they are, and so are ids."""

    record: EncodedRecord

    def __init__(self, record: EncodedRecord) -> None:
        sparse = tuple(column.feature for column in record.sparse)
        one_hot = Schema(record.dense, sparse, record.tasks)
        columns, reads = _columns(record)
        super().__init__(record, one_hot, columns, reads)
        self._has_lists = any(column.lists for column in record.sparse)
        lists = frozenset(column.name for column in record.sparse if column.lists)
        # A missing number is looked for after the decoding where none may be.
        missing = float("nan") if record.dense_missing is None else record.dense_missing
        self._map = ColumnMap(Schema(record.dense, sparse, ()), missing, record.beyond, lists)
        self._int32 = max(column.rows for column in record.sparse) <= 2**31

    @property
    def arrays(self) -> dict[str, torch.Tensor]:
        """None."""
        return {}

    def example(self) -> dict[str, Any]:
        """See :meth:`Preprocessing.example`."""
        row: dict[str, Any] = dict.fromkeys(self.record.dense, 0.5)
        for column in self.record.sparse:
            one = min(1, column.rows - 1)
            row[column.name] = [one, 0][: column.hotness] if column.lists else one
        return row

    def from_arrow(self, table: pa.Table, *, name: str = "body") -> Features:
        """See :meth:`Preprocessing.from_arrow`; types are those that Parquet data may have."""
        reader = TableColumns.of(table, self._map, name=name)
        dense_BN = read_numbers(reader, self.record.dense)
        dense_BN[np.isnan(dense_BN)] = self._map.dense_missing
        if not np.isfinite(dense_BN).all():
            at, column = np.argwhere(~np.isfinite(dense_BN))[0].tolist()
            found = dense_BN[at, column]
            problem = "is missing (null or NaN)" if np.isnan(found) else f"{found} is not finite in float32"
            raise reader.error(at, self.record.dense[column], problem, "give a finite number")
        ids_BS, lengths_BF = read_ids(reader, self._map)
        return self._finished(dense_BN, ids_BS, lengths_BF, name=name, in_table=False)

    def from_tsv(self, lines: bytes, *, labelled: bool, name: str = "body") -> tuple[Features, torch.Tensor | None]:
        """Not the format of these rows.

        Raises:
            DataError: always.
        """
        problem = "is tab separated text of Criteo's format, which this model does not take"
        raise DataError(
            name, problem, hint="give the rows as JSON, Arrow or Parquet: they are numbers and ids by column"
        )

    def _of_values(self, values: list[Sequence[Any]], name: str) -> Features:
        count, num_dense = len(values[0]), len(self.record.dense)
        dense_NB = np.array(values[:num_dense], np.float64).reshape(num_dense, count)
        dense_BN = dense_NB.T.astype(np.float32, order="C")
        if not self._has_lists:
            wide_BS: NDArray[np.int64] = np.array(values[num_dense:], np.int64).T.copy()
            in_table = self.record.beyond == "error"
            ids_BS = wide_BS.astype(np.int32) if in_table and self._int32 else wide_BS
            return self._finished(dense_BN, ids_BS, None, name=name, in_table=in_table)
        bags_BS, lengths_BF = self._bags_of(values[num_dense:], count)
        return self._finished(dense_BN, bags_BS, lengths_BF, name=name, in_table=False)

    def _bags_of(self, values: list[Sequence[Any]], count: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Ids, 0 beyond a bag's end, and lengths."""
        ids_BS = np.zeros((count, self._map.schema.ids_per_sample), np.int64)
        lengths_BF = np.ones((count, len(values)), np.int32)
        at = 0
        for f, (column, given) in enumerate(zip(self.record.sparse, values, strict=True)):
            if not column.lists:
                ids_BS[:, at] = given
            else:
                lengths_B = np.array([len(bag) for bag in given], np.int32)
                lengths_BF[:, f] = lengths_B
                there_BL = np.arange(column.hotness) < lengths_B[:, None]
                ids_BS[:, at : at + column.hotness][there_BL] = list(chain.from_iterable(given))
            at += column.hotness
        return ids_BS, lengths_BF


def _columns(record: EncodedRecord) -> tuple[list[RawColumn], list[Read]]:
    may_be_missing = record.dense_missing is not None
    columns = [RawColumn(name, "number", may_be_missing) for name in record.dense]
    reads = [number_reader(record.dense_missing)] * len(columns)
    for column in record.sparse:
        read = id_reader(column.rows, record.beyond, null=record.null_ids)
        if column.lists:
            columns.append(RawColumn(column.name, "id list", record.null_ids, column.rows, column.hotness))
            reads.append(list_reader(read, column.hotness, null=record.null_ids))
        else:
            may_be_missing = record.null_ids and record.beyond != "error"
            columns.append(RawColumn(column.name, "id", may_be_missing, column.rows))
            reads.append(read)
    return columns, reads
