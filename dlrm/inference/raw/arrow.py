"""Columns of an Arrow table, whatever types can hold their values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dlrm.data.parquet.columns import ColumnMap, is_list, is_number, kind_of, mistakes
from dlrm.data.parquet.ids import as_ids, looked_up
from dlrm.data.raw.malformed import MAX_DECIMAL_DIGITS, MAX_HEX_DIGITS
from dlrm.data.raw.raw_rows import MISSING_CATEGORY, MISSING_INTEGER, Int64s
from dlrm.data.raw.tsv_parse import hexadecimals
from dlrm.errors import DataError
from dlrm.format import escaped
from dlrm.inference.raw.values import HIGHEST_CATEGORY, shown


class TableColumns:
    """The columns of a table, as :class:`~dlrm.data.parquet.decode.ColumnReader` says.

    Args:
        table: checked to be sound: it may come from a stranger.
        name: how messages call it.
    """

    def __init__(self, table: pa.Table, *, name: str) -> None:
        self.rows: int = table.num_rows
        self._table, self._name = table, name

    @classmethod
    def of(cls, table: pa.Table, columns: ColumnMap, *, name: str) -> TableColumns:
        """The columns of a table that are to hold numbers and ids.

        Raises:
            DataError: one is not there or of a type that will not do; the table is damaged.
        """
        for _, message in mistakes(columns, table.schema):
            raise DataError(name, message)
        for feature in columns.schema.sparse:
            kind, _ = kind_of(table.schema, feature.name)
            if kind is not None and not pa.types.is_null(kind) and is_list(kind) != (feature.name in columns.lists):
                wanted = "lists of ids" if feature.name in columns.lists else "one id a row"
                raise DataError(name, f"is {escaped(kind, 60)}, where the model takes {wanted}", column=feature.name)
        return cls(_sound(table, columns.names, name), name=name)

    @classmethod
    def raw(cls, table: pa.Table, columns: dict[str, bool], *, name: str) -> TableColumns:
        """Columns of raw integers, decimal ids and categories.

        Args:
            table: what was given.
            columns: their names, and whether each may hold text.
            name: how messages call the table.

        Raises:
            DataError: as of :meth:`of`.
        """
        for column, may_be_text in columns.items():
            kind, missing = kind_of(table.schema, column)
            if kind is None:
                raise DataError(name, missing, hint="give a column of nulls where all values are missing")
            good = is_number(kind) and not pa.types.is_boolean(kind)
            if not good and not (may_be_text and is_text(kind)):
                expected = "text or whole numbers" if may_be_text else "whole numbers"
                raise DataError(name, f"is {escaped(kind, 60)}, not {expected}", column=column)
        return cls(_sound(table, tuple(columns), name), name=name)

    def column(self, name: str) -> pa.Array:
        """The values of a column, those of a dictionary looked up."""
        try:
            return looked_up(self._table.column(name).combine_chunks())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            hint = "write the column without a dictionary"
            raise DataError(self._name, f"cannot be read ({escaped(error)})", column=name, hint=hint) from None

    def error(self, at: int, column: str, problem: str, hint: str) -> DataError:
        """The error of what is in a column of row ``at``, counted from 0."""
        return DataError(self._name, problem, row=at + 1, column=column, hint=hint)

    def integers(self, name: str) -> Int64s:
        """Raw integers int64 (M,), the lowest int64 where null or NaN.

        Raises:
            DataError: a number that is not whole, or too long.
        """
        bound = 10**MAX_DECIMAL_DIGITS
        problem = f"more than {MAX_DECIMAL_DIGITS} digits"
        return self._whole(name, self.column(name), MISSING_INTEGER, (1 - bound, bound - 1), problem)

    def decimal_ids(self, name: str, rows: int) -> Int64s:
        """Ids int64 (M,) of a table with so many rows.

        Raises:
            DataError: one is missing, not whole or outside of the table.
        """
        problem = f"outside of its table (0 .. {rows - 1})"
        ids_M = self._whole(name, self.column(name), MISSING_CATEGORY, (0, rows - 1), problem)
        if (ids_M == MISSING_CATEGORY).any():
            hint = f"give a whole number from 0 to {rows - 1}"
            raise self.error(int((ids_M == MISSING_CATEGORY).argmax()), name, "is missing", hint)
        return ids_M

    def categories(self, name: str) -> Int64s:
        """Raw categories int64 (M,), -1 where missing: of hexadecimal text, or of whole numbers.

        Raises:
            DataError: text or a number that is no category.
        """
        values = self.column(name)
        if not is_text(values.type):
            problem = f"outside of the categories 0 .. {HIGHEST_CATEGORY}"
            return self._whole(name, values, MISSING_CATEGORY, (0, HIGHEST_CATEGORY), problem)
        categories_M, valid_M = hexadecimals(*_fields(values))
        if not valid_M.all():
            at = int(valid_M.argmin())
            problem = f"is {shown(values[at].as_py())}, not a category of 1 to {MAX_HEX_DIGITS} hexadecimal digits"
            raise self.error(at, name, problem, "give hexadecimal digits, or null where it is missing")
        return categories_M

    def _whole(self, name: str, values: pa.Array, missing: int, limits: tuple[int, int], problem: str) -> Int64s:
        hint = "give whole numbers, or null where they are missing"

        def refuse(at: int, problem: str, _hint: str) -> DataError:
            return self.error(at, name, problem.removeprefix("id "), hint)

        numbers_M = as_ids(values, rows=1, bad_rows="error", refuse=refuse)
        is_missing_M = np.array(pc.is_null(values, nan_is_null=True))
        bad_M = ~is_missing_M & ((numbers_M < limits[0]) | (numbers_M > limits[1]))
        if bad_M.any():
            at = int(bad_M.argmax())
            raise self.error(at, name, f"is {numbers_M[at]}, {problem}", hint)
        return np.where(is_missing_M, missing, numbers_M)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _sound(table: pa.Table, names: tuple[str, ...], name: str) -> pa.Table:
    """The wanted columns, every offset and index of which was looked at."""
    wanted = table.select(list(names))
    try:
        wanted.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(name, f"is damaged ({escaped(error)})", hint="write or send the table again") from None
    return wanted


def _fields(values: pa.Array) -> tuple[NDArray[np.uint8], Int64s, Int64s]:
    """Text as a buffer, and where each value begins in it and how long it is; a null is empty."""
    if not len(values):
        return np.zeros(1, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64)
    text = pc.fill_null(values.cast(pa.large_string()), "")
    _, offsets, data = text.buffers()
    ends = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    buffer = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    return buffer, ends[:-1], np.diff(ends)
