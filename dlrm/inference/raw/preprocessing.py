"""Raw rows, in every form that they may have, into features: the interface of both kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from dlrm.data.bounds import mended
from dlrm.data.multi_hot.dataset import make_bags, multi_hot_schema
from dlrm.errors import DataError, ExportError
from dlrm.inference.features import Features
from dlrm.inference.raw.columns import JsonReader, RawColumn
from dlrm.inference.raw.record import CriteoRecord, EncodedRecord
from dlrm.inference.raw.values import Read
from dlrm.schema import Schema

"""Where large lookup tables of MLPerf's multi-hot recipe are kept."""


class Preprocessing(ABC):
    """Makes features of raw rows.

    The same raw row becomes the same features, bit for bit, in every form, and those that it had where the model was
    trained. Any number of threads may use it at once.

    Args:
        record: what the manifest of an export says.
        one_hot: the columns with one id a feature, or the lists that are given, before bags are made of ids.
        columns: the raw columns; reads: what reads their values.

    Attributes:
        record, columns: as given.
        schema: the columns of the model.
    """

    def __init__(
        self,
        record: EncodedRecord | CriteoRecord,
        one_hot: Schema,
        columns: Sequence[RawColumn],
        reads: Sequence[Read],
    ) -> None:
        self.record, self.columns = record, tuple(columns)
        self.schema = one_hot
        self._bags = None
        if record.bags is not None:
            self.schema = multi_hot_schema(one_hot, record.bags.hotness, key="bags.hotness")
            self._bags = make_bags(self.schema, record.bags.options())
        self._json = JsonReader(columns, reads)
        hotness = [feature.hotness for feature in self.schema.sparse]
        self._rows_S = np.repeat([feature.rows for feature in self.schema.sparse], hotness)
        self._feature_S = np.repeat(np.arange(len(hotness)), hotness)

    @staticmethod
    def load(record: EncodedRecord | CriteoRecord, arrays: Mapping[str, torch.Tensor]) -> Preprocessing:
        """The preprocessing that an export carries.

        Args:
            record: of its manifest.
            arrays: its vocabularies.

        Raises:
            ExportError: the arrays are not those of the record, or its tables are too small for any row.
        """
        from dlrm.inference.raw.criteo import CriteoPreprocessing  # both are built on this class
        from dlrm.inference.raw.encoded import EncodedPreprocessing

        loaded: Preprocessing
        if isinstance(record, CriteoRecord):
            loaded = CriteoPreprocessing.of_record(record, arrays)
        else:
            loaded = EncodedPreprocessing(record)
        try:
            loaded.from_json([loaded.example()])  # the first answer is not to wait for loops to be compiled
        except DataError as error:
            hint = "train and export with larger tables, or with bad_rows hash or clamp"
            raise ExportError(
                "manifest.json", f"its tables are too small for its own example: {error}", hint=hint
            ) from None
        return loaded

    @property
    @abstractmethod
    def arrays(self) -> dict[str, torch.Tensor]:
        """The vocabularies, int64, by name; none where there are none."""

    @abstractmethod
    def example(self) -> dict[str, Any]:
        """A raw row, as JSON has it."""

    def from_json(self, rows: Sequence[Mapping[str, object]], *, name: str = "body") -> Features:
        """Rows of JSON values.

        Args:
            rows: a mapping each, from names of columns to values. Null, or a key that is left out, is missing.
            name: how messages call where they come from; they count the rows from 1.

        Raises:
            DataError: the first value or key that is none, with its row and column.
        """
        return self._of_values(self._json.rows(rows, name), name)

    def from_columns(self, columns: Mapping[str, Sequence[object]], *, name: str = "body") -> Features:
        """The same rows, a list of values a column: ``{"int_0": [1, 5], ...}``; otherwise as :meth:`from_json`."""
        return self._of_values(self._json.columns(columns, name), name)

    @abstractmethod
    def from_arrow(self, table: pa.Table, *, name: str = "body") -> Features:
        """The columns of an Arrow table, whatever types can hold their values. Others than the model's are ignored.

        Args:
            table: every raw column is in it; null is a missing value.
            name: how messages call where it comes from; they count its rows from 1.

        Raises:
            DataError: a column is not there or of a type that will not do; the first value that is none.
        """

    @abstractmethod
    def from_tsv(self, lines: bytes, *, labelled: bool, name: str = "body") -> tuple[Features, torch.Tensor | None]:
        """Lines of Criteo's format: integers and categories, separated by tabs.

        Args:
            lines: whole lines.
            labelled: whether they begin with a label.
            name: how messages call where they come from; they count the rows from 1.

        Returns:
            The features, and the labels, float32 (B, 1); None where the rows have none.

        Raises:
            DataError: the first malformed row or field, or this is not the format of the rows.
        """

    @abstractmethod
    def _of_values(self, values: list[Sequence[Any]], name: str) -> Features:
        """Features of the values of each column, as their readers made them."""

    def _finished(
        self,
        dense_BN: NDArray[np.float32],
        ids_BS: NDArray[np.int32] | NDArray[np.int64],
        lengths_BF: NDArray[np.int32] | None,
        *,
        name: str,
        in_table: bool,
    ) -> Features:
        """Features of one-hot ids, or of the lists that were given: with bags, every id inside of its table.

        Args:
            dense_BN: of :class:`Features`.
            ids_BS: the ids, before bags are made of them.
            lengths_BF: of :class:`Features`.
            name: for messages.
            in_table: whether the ids are known to be inside of their tables.
        """
        ids = torch.from_numpy(ids_BS)
        if self._bags is not None:
            ids = self._bags.expand(ids)
        if not in_table:
            ids = self._inside(ids.numpy(), name)
        return Features(torch.from_numpy(dense_BN), ids, None if lengths_BF is None else torch.from_numpy(lengths_BF))

    def mended(self, ids_BS: torch.Tensor) -> torch.Tensor:
        """Ids with what becomes of those outside of their tables, as in training; as they are where that is an error."""
        if self.record.beyond == "error":
            return ids_BS
        return mended(ids_BS, torch.from_numpy(self._rows_S), self.record.beyond)

    def _inside(self, ids_BS: NDArray[Any], name: str) -> torch.Tensor:
        bad_BS = (ids_BS < 0) | (ids_BS >= self._rows_S)
        if bad_BS.any():
            if self.record.beyond == "error":
                at, place = np.argwhere(bad_BS)[0].tolist()
                feature = self.schema.sparse[int(self._feature_S[place])]
                found = ids_BS[at, place]
                problem = f"id {found} is outside of its table (0 .. {feature.rows - 1})"
                if found == -1:
                    problem = f"the id is missing (or -1), outside of its table (0 .. {feature.rows - 1})"
                hint = f"give a whole number from 0 to {feature.rows - 1}"
                raise DataError(name, problem, row=at + 1, column=feature.name, hint=hint)
            ids_BS = self.mended(torch.from_numpy(ids_BS)).numpy()
        narrow = self._rows_S.max() <= 2**31
        return torch.from_numpy(ids_BS.astype(np.int32 if narrow else np.int64, copy=False))
