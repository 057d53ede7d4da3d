"""Which row of one table is which row of another one, where both are of the same column with other vocabularies."""

from __future__ import annotations

import numpy as np

from dlrm.data.raw.raw_rows import Int64s
from dlrm.data.raw.vocabulary import NO_ID, Categories, DecimalIds, HashedIds, Vocabulary

NO_ROW = -1
"""In place of the row of the other table where that has none."""


def fault_in_match(target: Categories, source: Categories) -> str:
    """Why rows of two tables cannot be told to be the same values, in words; empty if they can."""
    match target, source:
        case (Vocabulary(), Vocabulary()) | (DecimalIds(), DecimalIds()):
            return ""
        case HashedIds(), HashedIds():
            if (target.column, target.rows) == (source.column, source.rows):
                return ""
            return f"is hashed over {source.rows:,} rows there and {target.rows:,} here, which puts values elsewhere"
        case _:
            return f"has {_named(source)} there and {_named(target)} here"


def _named(categories: Categories) -> str:
    return {Vocabulary: "a vocabulary", HashedIds: "hashed values", DecimalIds: "ids"}[type(categories)]


def matched_rows(target: Categories, source: Categories) -> Int64s:
    """Of each row of a table the row of another one that stands for the same value.

    Values are compared, the row of missing values with that of missing ones, and that of unseen values with its like. The
    row of a value that only the target knows has none: it was an unseen one, which is no reason to begin as those do.

    Args:
        target: how values become rows of the table.
        source: how they become rows of the other one; :func:`fault_in_match` has nothing to say of the two.

    Returns:
        int64 (rows of the target,), :data:`NO_ROW` where there is none.
    """
    if not (isinstance(target, Vocabulary) and isinstance(source, Vocabulary)):
        row_R = np.arange(target.rows)
        return np.where(row_R < source.rows, row_R, NO_ROW)
    row_R = np.full(target.rows, NO_ROW, np.int64)
    values_K, known_K = target.values_K, np.zeros(len(target.values_K), bool)
    at_K = np.searchsorted(source.values_K, values_K.astype(source.values_K.dtype, copy=False))
    if len(source.values_K):
        at_K = np.minimum(at_K, len(source.values_K) - 1)
        known_K = source.values_K[at_K] == values_K
    row_R[_rows_of(target)[known_K]] = _rows_of(source)[at_K[known_K]]
    for one, other in ((target.missing, source.missing), (target.unseen, source.unseen)):
        if NO_ID not in (one, other):
            row_R[one] = other
    return row_R


def _rows_of(vocabulary: Vocabulary) -> Int64s:
    """The row of each of its values; those that ascend with the values leave out the rows with a meaning of their own."""
    if vocabulary.ids_K is not None:
        return vocabulary.ids_K
    return np.arange(len(vocabulary.values_K)) + vocabulary.first
