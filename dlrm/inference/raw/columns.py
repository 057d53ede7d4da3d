"""The raw columns that a caller gives, and rows and columns of JSON values read by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dlrm.errors import DataError
from dlrm.format import counted, did_you_mean, escaped
from dlrm.inference.raw.values import Read, Refused, shown

Kind = Literal["integer", "number", "category", "id", "id list"]


@dataclass(frozen=True)
class RawColumn:
    """A column of raw rows.

    Attributes:
        name: of the column.
        kind: what its values are: an ``integer`` or ``number``, a ``category`` (text), an ``id`` or an ``id list``.
        may_be_missing: whether a row may leave it out, or have null there.
        rows: of the ids' table; None for other kinds.
        most: ids that a list may have.
    """

    name: str
    kind: Kind
    may_be_missing: bool
    rows: int | None = None
    most: int = 1

    @property
    def says(self) -> str:
        """What a value may be, in words, for a form or a page."""
        what = {
            "integer": "a whole number",
            "number": "a number",
            "category": "1 to 8 hexadecimal digits, as text",
            "id": f"an id from 0 to {(self.rows or 1) - 1}",
            "id list": f"a list of at most {self.most} ids from 0 to {(self.rows or 1) - 1}",
        }[self.kind]
        return f"{what}; may be missing" if self.may_be_missing else what


class JsonReader:
    """Reads rows, and columns, of JSON values.

    Args:
        columns: all of them, in order.
        reads: of each.
    """

    def __init__(self, columns: Sequence[RawColumn], reads: Sequence[Read]) -> None:
        self._names = frozenset(column.name for column in columns)
        self._plan = tuple((column.name, read) for column, read in zip(columns, reads, strict=True))

    def rows(self, rows: Sequence[Mapping[str, object]], name: str) -> list[Sequence[Any]]:
        """The values column by column, each of all rows.

        Args:
            rows: a mapping each, from the names of columns to values.
            name: how messages call where they come from.

        Raises:
            DataError: the first value that is none, with its row and column.
        """
        found: list[list[Any]] = []
        for at, row in enumerate(rows):
            if not isinstance(row, Mapping):
                problem = f"is {shown(row)}, where an object of columns is needed"
                raise DataError(name, problem, row=at + 1, hint='give {"column": value, ...}')
            if not row.keys() <= self._names:
                raise self._unknown(row, name, at + 1)
            get = row.get
            column = ""
            try:
                values = []
                for column, read in self._plan:
                    values.append(read(get(column)))
            except Refused as refused:
                raise DataError(name, refused.problem, row=at + 1, column=column, hint=refused.hint) from None
            found.append(values)
        return list(zip(*found, strict=True)) if found else [()] * len(self._plan)

    def columns(self, columns: Mapping[str, Sequence[object]], name: str) -> list[Sequence[Any]]:
        """The values column by column, each of all rows.

        Args:
            columns: from the names of columns to the values of all rows; as many in each.
            name: how messages call where they come from.

        Raises:
            DataError: columns of different lengths; otherwise as :meth:`rows`.
        """
        if not isinstance(columns, Mapping):
            raise DataError(name, f"is {shown(columns)}, where an object of columns is needed")
        if not columns.keys() <= self._names:
            raise self._unknown(columns, name, None)
        count = self._count(columns, name)
        missing = (None,) * count
        found: list[Sequence[Any]] = []
        for column, read in self._plan:
            values: list[Any] = []
            try:
                for value in columns.get(column, missing):
                    values.append(read(value))  # its length says where it stopped
            except Refused as refused:
                at = len(values) + 1
                raise DataError(name, refused.problem, row=at, column=column, hint=refused.hint) from None
            found.append(values)
        return found

    def _count(self, columns: Mapping[str, Sequence[object]], name: str) -> int:
        first = ""
        for column, values in columns.items():
            if not isinstance(values, list | tuple):
                hint = "give the values of all rows"
                raise DataError(name, f"is {shown(values)}, not a list", column=column, hint=hint)
            first = first or column
            if len(values) != len(columns[first]):
                problem = f"has {counted(len(values), 'value')}, {escaped(first, 40)} has {len(columns[first])}"
                raise DataError(name, problem, column=column, hint="give as many values in every column")
        if not columns:
            raise DataError(name, "has no columns", hint="give the values of at least one")
        return len(columns[first])

    def _unknown(self, given: Mapping[str, object], name: str, row: int | None) -> DataError:
        key = next(key for key in given if key not in self._names)
        if not isinstance(key, str):
            return DataError(name, f"has the key {shown(key)}, not a name", row=row, hint="give names of columns")
        names = [column for column, _ in self._plan]
        there = f"there are {', '.join(escaped(column, 40) for column in names[:8])}{', ..' if len(names) > 8 else ''}"
        hint = did_you_mean(key, names) or there
        return DataError(name, "the model has no such column", row=row, column=escaped(key, 40), hint=hint)
