"""Ids of any Arrow type that can hold whole numbers, as int64.

pandas makes floats of a column of integers with missing values, databases write decimals, hashes are unsigned: what such
a column holds is unambiguous as long as every number is whole and exact.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dlrm.config.data.packed import BadRows
from dlrm.data.raw.vocabulary import MISSING_ID, UNSEEN_ID
from dlrm.errors import DataError

NULL_ID = -1
"""Stands for a null id; outside of every table, so that the check of samples decides what becomes of it."""
NO_ID = -2
"""Stands for what is no id (not whole, not exact, a list longer than its hotness) where such samples are skipped: outside
of every table as well."""

_INT64_MAX = np.iinfo(np.int64).max
_EXACT_BITS = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}

FIRST_VALUE_ID = UNSEEN_ID + 1
"""The lowest id of a value of a vocabulary."""

Refuse = Callable[[int, str, str], DataError]
"""Makes the error of the value at some place, of what is wrong with it and the hint."""


def as_ids(values: pa.Array, *, rows: int, bad_rows: BadRows, refuse: Refuse) -> NDArray[np.int64]:
    """int64 (M,), :data:`NULL_ID` where null or NaN.

    Args:
        values: of a type that may hold whole numbers.
        rows: of the ids' table.
        bad_rows: what to do about bad ids, of which this deals with those that int64 cannot hold. An unsigned one is an
            error or becomes another that is outside of the table and, with ``hash``, has the same remainder. What is not
            whole is an error or, with ``skip``, :data:`NO_ID`.
        refuse: makes the error.
    """
    kind = values.type
    if pa.types.is_floating(kind):
        return _of_floats(values, bad_rows, refuse)
    if pa.types.is_decimal(kind):
        return _of_decimals(values, bad_rows, refuse)
    if pa.types.is_uint64(kind):
        values = _within_int64(values, rows, bad_rows, refuse)
    ids: NDArray[np.int64] = pc.fill_null(values.cast(pa.int64()), NULL_ID).to_numpy(zero_copy_only=False)
    return ids


def as_vocabulary_ids(values: pa.Array, vocabulary: pa.Array) -> NDArray[np.int64]:
    """int64 (M,): :data:`MISSING_ID` where null, :data:`UNSEEN_ID` where not in the vocabulary, else from 2 on."""
    text = as_text(values)
    place = pc.index_in(text, value_set=vocabulary)
    ids = pc.if_else(
        pc.is_null(text), MISSING_ID, pc.fill_null(pc.add(place.cast(pa.int64()), FIRST_VALUE_ID), UNSEEN_ID)
    )
    return ids.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def as_text(values: pa.Array) -> pa.Array:
    """Text and whole numbers as one type, so that it does not matter how a file stores them."""
    return looked_up(values).cast(pa.large_string())


def looked_up(values: pa.Array) -> pa.Array:
    """The values of a dictionary's codes; any others as they are."""
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _within_int64(values: pa.Array, rows: int, bad_rows: BadRows, refuse: Refuse) -> pa.Array:
    numbers = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
    beyond_M = numbers > _INT64_MAX
    if not beyond_M.any():
        return values
    if bad_rows == "error":
        at = int(beyond_M.argmax())
        raise refuse(at, f"id {numbers[at]} is beyond int64", "hash or renumber the ids")
    outside = numbers % np.uint64(rows) + np.uint64(rows) if bad_rows == "hash" else np.uint64(_INT64_MAX)
    return pa.array(np.where(beyond_M, outside, numbers), mask=np.array(values.is_null()))


def _of_floats(values: pa.Array, bad_rows: BadRows, refuse: Refuse) -> NDArray[np.int64]:
    exact = 2.0 ** _EXACT_BITS[values.type]
    numbers = np.array(pc.fill_null(values, np.nan), np.float64)
    null_M = np.isnan(numbers)
    numbers[null_M] = NULL_ID
    bad_M = (np.floor(numbers) != numbers) | (np.abs(numbers) >= exact)
    if bad_M.any():
        at = int(bad_M.argmax())
        found = float(numbers[at])
        problem, hint = f"id {found} is not whole", "encode the column's values to integers 0 .. first"
        if abs(found) >= exact:
            problem, hint = f"id {found} is beyond what {values.type} holds exactly", "store ids as integers"
        if bad_rows != "skip":
            raise refuse(at, problem, hint)
        numbers[bad_M] = NO_ID
    return numbers.astype(np.int64)


def _of_decimals(values: pa.Array, bad_rows: BadRows, refuse: Refuse) -> NDArray[np.int64]:
    good = pc.and_(
        pc.equal(pc.floor(values), values),
        pc.and_(pc.less(values, pa.scalar(Decimal(2**63))), pc.greater_equal(values, pa.scalar(Decimal(-(2**63))))),
    )
    bad_M = pc.invert(pc.fill_null(good, True)).to_numpy(zero_copy_only=False)
    if bad_M.any() and bad_rows != "skip":
        at = int(bad_M.argmax())
        hint = "encode the column's values to integers 0 .. first"
        raise refuse(at, f"id {values[at].as_py()} is not whole, or beyond int64", hint)
    ids: NDArray[np.int64] = np.array(pc.fill_null(values.cast(pa.int64(), safe=False), NULL_ID))
    ids[bad_M] = NO_ID
    return ids
