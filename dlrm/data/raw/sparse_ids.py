"""The ids of all sparse columns of some rows in one compiled loop, fast for one row and for millions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dlrm.compiled import compiled
from dlrm.counter_rng import mix64
from dlrm.data.raw.raw_rows import MISSING_CATEGORY, Int64s
from dlrm.data.raw.vocabulary import MISSING_ID, NO_ID, Categories, HashedIds, Vocabulary, hash_key

_VOCABULARY, _HASHED, _DECIMAL = range(3)
_ASCENDING = -1


class _Plan(NamedTuple):
    """What the loop needs to know, of C columns.

    Attributes:
        facts_CX: int64 (C, 6): kind; rows; id of a missing category; of an unseen one; the lowest of the others; where the
            vocabulary's ids begin in ``ids``, or :data:`_ASCENDING`.
        key_C: uint64, of the hashes.
        begin_C: int64 (C + 1,), where each vocabulary begins in ``values``.
        values: uint32, of all vocabularies.
        ids: int64, of those that do not ascend.
    """

    facts_CX: Int64s
    key_C: npt.NDArray[np.uint64]
    begin_C: Int64s
    values: npt.NDArray[np.uint32]
    ids: Int64s


class SparseIds:
    """Makes the ids. It is not changed by its use, so several threads can use it at the same time.

    Args:
        columns: how the categories of each column become ids.

    Attributes:
        rows: size of each column's table.
        is_complete: whether every category has an id.
    """

    def __init__(self, columns: Sequence[Categories]) -> None:
        self.rows = tuple(column.rows for column in columns)
        vocabularies = [column if isinstance(column, Vocabulary) else None for column in columns]
        self.is_complete = all(v.is_complete for v in vocabularies if v is not None)
        values = [np.empty(0, np.uint32) if v is None else v.values_K.astype(np.uint32) for v in vocabularies]
        ids = [np.empty(0, np.int64) if v is None or v.ids_K is None else v.ids_K for v in vocabularies]
        ids_begin = np.cumsum([0, *map(len, ids)])
        facts = []
        for column, begin in zip(columns, ids_begin.tolist(), strict=False):
            if isinstance(column, Vocabulary):
                place = _ASCENDING if column.ids_K is None else begin
                facts.append((_VOCABULARY, column.rows, column.missing, column.unseen, column.first, place))
            else:
                kind = _HASHED if isinstance(column, HashedIds) else _DECIMAL
                facts.append((kind, column.rows, MISSING_ID, NO_ID, 0, _ASCENDING))
        keys = [hash_key(column.column) if isinstance(column, HashedIds) else 0 for column in columns]
        self._plan = _Plan(
            facts_CX=np.array(facts, np.int64),
            key_C=np.array(keys, np.int64).view(np.uint64),
            begin_C=np.cumsum([0, *map(len, values)]),
            values=np.concatenate(values),
            ids=np.concatenate(ids),
        )

    def encode(self, raw_CM: Int64s) -> Int64s:
        """The ids of M rows.

        Args:
            raw_CM: int64 (C, M), the raw categories, -1 where missing.

        Returns:
            int64 (M, C), C-contiguous; :data:`NO_ID` where a category has none.
        """
        ids_MC = np.empty(raw_CM.shape[::-1], np.int64)
        _write_ids(np.ascontiguousarray(raw_CM), self._plan, ids_MC)
        return ids_MC


@compiled
def _write_ids(raw_CM: Int64s, plan: Any, ids_MC: Int64s) -> None:
    for c in range(raw_CM.shape[0]):
        kind, rows, missing, unseen, first, place = plan.facts_CX[c]
        begin, end = plan.begin_C[c], plan.begin_C[c + 1]
        for m in range(raw_CM.shape[1]):
            raw = raw_CM[c, m]
            if kind == _DECIMAL:
                ids_MC[m, c] = raw
            elif raw == MISSING_CATEGORY:
                ids_MC[m, c] = missing
            elif kind == _HASHED:
                bits = mix64(plan.key_C[c], np.uint64(raw)) >> np.uint64(1)
                ids_MC[m, c] = 1 + np.int64(bits % np.uint64(rows - 1))
            else:
                low, high = begin, end
                while low < high:
                    middle = (low + high) >> 1
                    if np.int64(plan.values[middle]) < raw:
                        low = middle + 1
                    else:
                        high = middle
                if low == end or np.int64(plan.values[low]) != raw:
                    ids_MC[m, c] = unseen
                elif place == _ASCENDING:
                    ids_MC[m, c] = first + low - begin
                else:
                    ids_MC[m, c] = plan.ids[place + low - begin]
