"""Values of raw rows as JSON has them: a reader for each kind of column, a plain function, as a server asks many a row.

The common case is the first line of each; what else a value may be (a whole number as ``260.0``, as pandas writes columns
with gaps) is looked at after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from dlrm.data.parquet.ids import NULL_ID
from dlrm.data.raw.malformed import MAX_DECIMAL_DIGITS, MAX_HEX_DIGITS
from dlrm.data.raw.raw_rows import MISSING_CATEGORY, MISSING_INTEGER
from dlrm.format import escaped
from dlrm.inference.raw.record import Beyond

Read = Callable[[object], Any]
"""Makes a number, or a list of ids, of a value; None stands for a missing one.

Raises:
    Refused: the value is none of the column's.
"""

_INTEGER_BOUND = 10**MAX_DECIMAL_DIGITS
HIGHEST_CATEGORY = 16**MAX_HEX_DIGITS - 1
_IS_HEX = re.compile(f"[0-9A-Fa-f]{{1,{MAX_HEX_DIGITS}}}").fullmatch
_EXACT = 2**53  # whole floats below it are the number that was meant
_FLOAT32_BOUND = (2 - 2.0**-24) * 2.0**127  # from it on, float32 rounds to infinity
_NOT_A_WHOLE_NUMBER = "not a whole number"


class Refused(Exception):  # noqa: N818  # becomes a DataError where row and column are known
    """What is wrong with a value, and what the user can do."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem, hint)
        self.problem, self.hint = problem, hint


def shown(value: object) -> str:
    """A value as a message shows it: one line, short, whatever it is."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return escaped(repr(value[:64]), 40)
    if isinstance(value, bool | float):
        return str(value).lower()
    if isinstance(value, Integral):
        number = int(value)
        return str(number) if abs(number) < 10**40 else f"a number of {number.bit_length():,} bits"
    if isinstance(value, Real):
        return escaped(value, 40)
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def read_integer(value: object) -> int:
    """A raw integer; the lowest int64 where missing."""
    if type(value) is int and -_INTEGER_BOUND < value < _INTEGER_BOUND:
        return value
    if value is None:
        return MISSING_INTEGER
    hint = "give a whole number, or null where it is missing"
    number = _whole(value, hint)
    if not -_INTEGER_BOUND < number < _INTEGER_BOUND:
        raise Refused(f"is {shown(value)}, more than {MAX_DECIMAL_DIGITS} digits", hint)
    return number


def category_reader(may_be_missing: bool) -> Read:
    """Of raw categories: hexadecimal text, or the same as a number. -1 is a missing one."""
    hint = f'give 1 to {MAX_HEX_DIGITS} hexadecimal digits as text ("68fd1e64")'
    hint += ", or null where it is missing" if may_be_missing else ""

    def read(value: object) -> int:
        if type(value) is str and _IS_HEX(value):
            return int(value, 16)
        if value is None or value == "":
            if may_be_missing:
                return MISSING_CATEGORY
            raise Refused("is missing, and the vocabulary has no id for that", hint)
        if isinstance(value, str):
            problem = f"not a category of 1 to {MAX_HEX_DIGITS} hexadecimal digits"
            if re.fullmatch("[0-9A-Fa-f]+", value):
                problem = f"longer than {MAX_HEX_DIGITS} hexadecimal digits (32 bits)"
            raise Refused(f"is {shown(value)}, {problem}", hint)
        number = _whole(value, hint, expected="neither hexadecimal text nor a whole number")
        if not 0 <= number <= HIGHEST_CATEGORY:
            raise Refused(f"is {shown(value)}, outside of the categories 0 .. {HIGHEST_CATEGORY}", hint)
        return number

    return read


def number_reader(missing: float | None) -> Read:
    """Of numbers, as floats; ``missing`` stands for a missing one, None where none may be."""
    hint = "give a finite number" + ("" if missing is None else ", or null where it is missing")

    def read(value: object) -> float:
        if type(value) is float and -_FLOAT32_BOUND < value < _FLOAT32_BOUND:
            return value
        if value is None:
            if missing is None:
                raise Refused("is missing", hint)
            return missing
        if isinstance(value, bool) or not isinstance(value, Real):
            raise Refused(f"is {shown(value)}, not a number", hint)
        if isinstance(value, Integral):
            number = int(value)
            if not -(2**63) <= number < 2**63:
                raise Refused(f"is {shown(value)}, a whole number beyond int64", hint)
            # float64 in between would round twice.
            return float(number) if -_EXACT <= number <= _EXACT else float(np.float32(np.int64(number)))
        found = float(value)
        if not -_FLOAT32_BOUND < found < _FLOAT32_BOUND:
            raise Refused(f"is {shown(found)}, which is not finite in float32", hint)
        return found

    return read


def id_reader(rows: int, beyond: Beyond, *, null: bool) -> Read:
    """Of ids of a table with so many rows.

    Args:
        rows: of the table.
        beyond: what becomes of others later: unless that is an error, they are read as they are.
        null: whether one may be missing, which is :data:`~dlrm.data.parquet.ids.NULL_ID` then.
    """
    hint = f"give a whole number from 0 to {rows - 1}"

    def read(value: object) -> int:
        if type(value) is int and 0 <= value < rows:
            return value
        if value is None:
            if null and beyond != "error":
                return NULL_ID
            raise Refused("is missing", hint)
        number = _whole(value, hint)
        if beyond == "error" and not 0 <= number < rows:
            raise Refused(f"id {shown(number)} is outside of its table (0 .. {rows - 1})", hint)
        if not -(2**63) <= number < 2**63:
            if beyond != "error" and 0 < number < 2**64:  # unsigned: outside of the table, and with the same remainder
                return number % rows + rows if beyond == "hash" else 2**63 - 1
            raise Refused(f"id {shown(number)} is beyond int64", hint)
        return number

    return read


def list_reader(read_id: Read, hotness: int, *, null: bool) -> Read:
    """Of lists of ids.

    Args:
        read_id: reads one.
        hotness: the most that there may be.
        null: whether a missing list is an empty one.
    """
    hint = f"give a list of at most {hotness} ids"

    def read(value: object) -> Sequence[int]:
        if value is None:
            if null:
                return ()
            raise Refused("is missing", hint + " ([] if there is none)")
        if not isinstance(value, list | tuple):
            raise Refused(f"is {shown(value)}, not a list", hint)
        if len(value) > hotness:
            raise Refused(f"has {len(value)} ids, more than hotness {hotness}", hint)
        return [read_id(one) for one in value]

    return read


def _whole(value: object, hint: str, *, expected: str = _NOT_A_WHOLE_NUMBER) -> int:
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        raise Refused(f"is {shown(value)}, beyond what a float holds exactly", hint)
    raise Refused(f"is {shown(value)}, {expected}", hint)
