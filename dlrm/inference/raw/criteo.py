"""Raw rows of Criteo's format: integers and categories, which a fitted encoding turns into numbers and ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dlrm.data.raw.encoding import RawEncoding
from dlrm.data.raw.layout import Layout
from dlrm.data.raw.raw_rows import MISSING_CATEGORY, Int64s
from dlrm.data.raw.tsv_parse import parse_lines
from dlrm.data.raw.vocabulary import NO_ID, Categories, DecimalIds, HashedIds, Vocabulary
from dlrm.errors import DataError
from dlrm.inference.features import Features
from dlrm.inference.raw.arrow import TableColumns
from dlrm.inference.raw.columns import RawColumn
from dlrm.inference.raw.encoding_record import encoding_of, vocabulary_arrays
from dlrm.inference.raw.preprocessing import Preprocessing
from dlrm.inference.raw.record import CriteoRecord
from dlrm.inference.raw.values import Read, category_reader, id_reader, read_integer
from dlrm.schema import Schema

_COMMON_CATEGORY = 0x68FD1E64
"""Of the first row of Criteo Kaggle's training data."""


class CriteoPreprocessing(Preprocessing):
    """Integers and categories, by what the training rows showed.

    Args:
        record: what the manifest of an export says of ``encoding``.
        encoding: turns raw rows into values and ids.
    """

    record: CriteoRecord

    def __init__(self, record: CriteoRecord, encoding: RawEncoding) -> None:
        self._encoding = encoding
        sparse = encoding.sparse
        if record.rows is not None:
            sparse = tuple(replace(feature, rows=rows) for feature, rows in zip(sparse, record.rows, strict=True))
        self._in_table = all(own.rows >= needed.rows for own, needed in zip(sparse, encoding.sparse, strict=True))
        columns, reads = _columns(encoding)
        one_hot = Schema(encoding.dense_names, sparse, record.tasks)
        super().__init__(record, one_hot, columns, reads)
        self._num_dense = len(encoding.dense_names)
        categories = encoding.categories.values()
        id_rows = tuple(ids.rows for ids in categories if isinstance(ids, DecimalIds))
        self._layout = Layout(self._num_dense, len(categories), id_rows=id_rows or None, options=None)

    @classmethod
    def of_record(cls, record: CriteoRecord, arrays: Mapping[str, torch.Tensor]) -> CriteoPreprocessing:
        """Of an export.

        Raises:
            ExportError: the arrays are not those of the record.
        """
        return cls(record, encoding_of(record, arrays))

    @property
    def arrays(self) -> dict[str, torch.Tensor]:
        """The vocabularies, int64, by name."""
        return vocabulary_arrays(self._encoding)

    def example(self) -> dict[str, Any]:
        """See :meth:`Preprocessing.example`."""
        is_cut = self.record.beyond == "error" and not self._in_table
        # Of an integer that is missing the bucket has a low id.
        row: dict[str, Any] = dict.fromkeys(
            self._encoding.dense_names, None if is_cut and self._encoding.buckets else 1
        )
        for (name, categories), rows in zip(self._encoding.categories.items(), self.record.table_rows, strict=False):
            row[name] = _example_of(categories, rows if is_cut else categories.rows)
        return row

    def from_arrow(self, table: pa.Table, *, name: str = "body") -> Features:
        """See :meth:`Preprocessing.from_arrow`; integers of any numeric type, categories also as hexadecimal text."""
        columns = dict.fromkeys(self._encoding.dense_names, False) | {
            column: not isinstance(ids, DecimalIds) for column, ids in self._encoding.categories.items()
        }
        reader = TableColumns.raw(table, columns, name=name)
        integers_NM = np.stack([reader.integers(column) for column in self._encoding.dense_names])
        categories_FM = np.stack(
            [
                reader.decimal_ids(column, ids.rows) if isinstance(ids, DecimalIds) else reader.categories(column)
                for column, ids in self._encoding.categories.items()
            ]
        )
        return self._encoded(integers_NM, categories_FM, name)

    def from_tsv(self, lines: bytes, *, labelled: bool, name: str = "body") -> tuple[Features, torch.Tensor | None]:
        """See :meth:`Preprocessing.from_tsv`."""
        lines = lines if lines.endswith(b"\n") or not lines else lines + b"\n"
        layout = self._layout if labelled else replace(self._layout, labelled=False)
        rows = parse_lines(lines, layout, path=name, first_row=1)
        features = self._encoded(rows.integers_NM, rows.categories_FM, name)
        return features, torch.from_numpy(rows.labels_M).to(torch.float32)[:, None] if labelled else None

    def _of_values(self, values: list[Sequence[Any]], name: str) -> Features:
        raw_CM = np.array(values, np.int64)
        return self._encoded(raw_CM[: self._num_dense], raw_CM[self._num_dense :], name)

    def _encoded(self, integers_NM: Int64s, categories_FM: Int64s, name: str) -> Features:
        dense_MN, ids_MS = self._encoding.encode(integers_NM, categories_FM)
        if not self._encoding.is_complete and (ids_MS == NO_ID).any():
            raise self._without_id(ids_MS, categories_FM, name)
        return self._finished(dense_MN, ids_MS, None, name=name, in_table=self._in_table)

    def _without_id(self, ids_MS: Any, categories_FM: Int64s, name: str) -> DataError:
        """The first category that the model has no id for."""
        at, place = np.argwhere(ids_MS == NO_ID)[0].tolist()
        column = list(self._encoding.categories)[place]
        category = int(categories_FM[place, at])
        what = "a missing category" if category == MISSING_CATEGORY else f"category {category:08x}"
        problem = f"{what} is not in the vocabulary, which has no id for what is not"
        hint = "its data were preprocessed with categories.reserved mlperf; separate sets ids apart for such values"
        return DataError(name, problem, row=at + 1, column=column, hint=hint)


def _columns(encoding: RawEncoding) -> tuple[list[RawColumn], list[Read]]:
    columns = [RawColumn(name, "integer", may_be_missing=True) for name in encoding.dense_names]
    reads: list[Read] = [read_integer] * len(columns)
    for name, categories in encoding.categories.items():
        if isinstance(categories, DecimalIds):
            columns.append(RawColumn(name, "id", may_be_missing=False, rows=categories.rows))
            reads.append(id_reader(categories.rows, "error", null=False))
        else:
            may_be_missing = _has_id_for_missing(categories)
            columns.append(RawColumn(name, "category", may_be_missing))
            reads.append(category_reader(may_be_missing))
    return columns, reads


def _example_of(categories: Categories, rows: int) -> int | str | None:
    """A raw category whose id is below ``rows``, if there is one; None is a missing one."""
    if isinstance(categories, DecimalIds):
        return 0
    if isinstance(categories, HashedIds):
        return f"{_COMMON_CATEGORY:08x}" if rows >= categories.rows else None
    if categories.first < rows and len(categories.values_K):
        at = 0 if categories.ids_K is None else int((categories.ids_K < rows).argmax())
        return f"{int(categories.values_K[at]):08x}"
    if NO_ID < categories.missing < rows:
        return None
    return f"{_COMMON_CATEGORY:08x}"  # which is unseen, if there are no values


def _has_id_for_missing(categories: Categories) -> bool:
    return not isinstance(categories, Vocabulary) or categories.missing != NO_ID
