"""Raw categories as ids of embedding tables, for all columns of some rows at once.

With a vocabulary, ids are in ascending order of the raw values. ``reserved: separate`` sets id 0 apart for missing
categories and id 1 for those that are not in the vocabulary. With ``reserved: mlperf`` a missing category is the raw value
0, as in torchrec's and facebookresearch/dlrm's preprocessing, and every category has to be in the vocabulary. Hashed
categories get the ids that :func:`dlrm.data.raw.vocabulary.hashed_ids` gives where raw files are read directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from dlrm.compiled import compiled
from dlrm.config.data.raw import HashedCategories
from dlrm.config.prepare import ContiguousVocabulary
from dlrm.data.raw.raw_rows import MISSING_CATEGORY
from dlrm.data.raw.vocabulary import NO_ID, Reserved, hashed_ids, reserved_ids
from dlrm.errors import ConfigError
from dlrm.preprocess.records import Bools, Int64s, UInt32s

Ids = npt.NDArray[np.int32] | npt.NDArray[np.int64]

_INT32_ROWS = 2**31  # tables with more rows need int64 ids
_MAX_LOG2_BUCKETS = 18  # 2 MiB of starts a vocabulary; of 40 million values a bucket has 150
_LOG2_SEEN = 13
_MULTIPLIER = 2_654_435_761  # spreads values over the places of what was seen


class Encoder:
    """The ids of all sparse columns. It is not changed by its use, so several threads can use it at the same time.

    Args:
        config: how categories become ids.
        vocabularies: of each column, the raw values with ids of their own, uint32 (K,), ascending; may be memory maps.
            None for hashing.
        num_sparse: number of columns; needed where a single size of the hashing's ``rows`` is meant for all.

    Attributes:
        rows: size of each column's table.
        wide: whether ids are int64, because a table has more than 2^31 rows; otherwise they are int32.

    Raises:
        ConfigError: hashing has another number of table sizes than there are columns.
    """

    def __init__(
        self,
        config: ContiguousVocabulary | HashedCategories,
        vocabularies: Sequence[UInt32s] | None,
        *,
        num_sparse: int | None = None,
    ) -> None:
        self._columns = _columns(config, vocabularies, num_sparse)
        self.rows = tuple(column.rows for column in self._columns)
        self.wide = max(self.rows) > _INT32_ROWS

    def encode(self, categories_FM: UInt32s, missing_FM: Bools) -> Ids:
        """The ids of M samples; the global interpreter lock is free meanwhile.

        Args:
            categories_FM: uint32 (F, M), raw values.
            missing_FM: bool (F, M), where they are missing.

        Returns:
            int32 or int64 (see ``wide``) (M, F), C-contiguous, in 0 .. rows - 1.

        Raises:
            ValueError: with ``reserved: mlperf``, a category is not in the vocabulary.
        """
        ids_FM = np.empty(categories_FM.shape, np.int64 if self.wide else np.int32)
        for column, categories_M, missing_M, ids_M in zip(
            self._columns, categories_FM, missing_FM, ids_FM, strict=True
        ):
            column.encode(categories_M, missing_M, ids_M)
        return np.ascontiguousarray(ids_FM.T)


class _Column(Protocol):
    rows: int

    def encode(self, categories_M: UInt32s, missing_M: Bools, ids_M: Ids) -> None:
        """Write the ids of a column's categories."""


def _columns(
    config: ContiguousVocabulary | HashedCategories, vocabularies: Sequence[UInt32s] | None, num_sparse: int | None
) -> Sequence[_Column]:
    if isinstance(config, ContiguousVocabulary):
        if vocabularies is None or num_sparse not in (None, len(vocabularies)):
            raise ValueError(f"{num_sparse} columns need as many vocabularies")
        return [_VocabularyColumn(f"cat_{f}", values, config.reserved) for f, values in enumerate(vocabularies)]
    count = len(config.rows) if num_sparse is None else num_sparse
    if len(config.rows) not in (1, count):
        message = f"gives {len(config.rows)} table sizes for {count} sparse columns: give one a column, or one for all"
        raise ConfigError.at("categories.rows", message)
    rows = config.rows * count if len(config.rows) == 1 else config.rows
    return [_HashedColumn(f"cat_{f}", size) for f, size in enumerate(rows)]


class _VocabularyColumn:
    """Ids of one's own for the values of a vocabulary, behind those that are set apart."""

    def __init__(self, name: str, values_K: UInt32s, reserved: Literal["separate", "mlperf"]) -> None:
        self._name, self._values = name, SortedValues(values_K)
        self._reserved = reserved_ids(values_K, reserved)
        self.rows = self._reserved.first + len(values_K)

    def encode(self, categories_M: UInt32s, missing_M: Bools, ids_M: Ids) -> None:
        self._values.ids(categories_M, missing_M, self._reserved, ids_M)
        if (ids_M == NO_ID).any():
            raise ValueError(f"{self._name} has a category that its vocabulary of all rows lacks")


class _HashedColumn:
    """0 missing, the others by hash."""

    def __init__(self, name: str, rows: int) -> None:
        self._name, self.rows = name, rows

    def encode(self, categories_M: UInt32s, missing_M: Bools, ids_M: Ids) -> None:
        signed_M = np.where(missing_M, MISSING_CATEGORY, categories_M.astype(np.int64))
        ids_M[:] = hashed_ids(signed_M, column=self._name, rows=self.rows)


class SortedValues:
    """Distinct 32-bit values in ascending order, with an index for finding them.

    The index says where each *bucket* begins, an equal share of the values' range: hashes fill them nearly evenly, and the
    rest is a short binary search.

    Args:
        values_K: uint32 (K,), ascending; may be a memory map.
    """

    def __init__(self, values_K: UInt32s) -> None:
        self._values_K = np.asarray(values_K).view()
        self._values_K.flags.writeable = False  # as of a memory map: the loop is compiled for one kind of arrays
        last = int(values_K[-1]) if len(values_K) else 0
        self._shift = max(0, last.bit_length() - min(_MAX_LOG2_BUCKETS, (len(values_K) // 2).bit_length()))
        begins = np.arange((last >> self._shift) + 1, dtype=np.uint32) << np.uint32(self._shift)
        self._starts = np.append(np.searchsorted(self._values_K, begins), len(values_K))

    def ids(self, categories_M: UInt32s, missing_M: Bools, reserved: Reserved, ids_M: Ids) -> None:
        """Write the id of every category.

        Args:
            categories_M: uint32 (M,), raw values.
            missing_M: bool (M,), where they are missing.
            reserved: ids with a meaning of their own.
            ids_M: int32 or int64 (M,), written.
        """
        index = self._values_K, self._starts, self._shift
        _write_ids(categories_M, missing_M, index, reserved, ids_M)


@compiled
def _write_ids(
    categories_M: UInt32s, missing_M: Bools, index: tuple[UInt32s, Int64s, int], reserved: Reserved, ids_M: Ids
) -> None:
    """Most categories are among the few that occur often: what was found last is remembered, in a table by hash."""
    seen_S, seen_ids_S = np.zeros(1 << _LOG2_SEEN, np.uint32), np.empty(1 << _LOG2_SEEN, np.int64)
    seen_S[0] = 1  # whose place is another one, as is that of 0 for all others: nothing was seen
    for i in range(len(categories_M)):
        category = categories_M[i]
        place = np.uint32(category * np.uint32(_MULTIPLIER)) >> np.uint32(32 - _LOG2_SEEN)
        if missing_M[i]:
            ids_M[i] = reserved.missing
        else:
            if seen_S[place] != category:
                seen_S[place] = category
                found = _find(category, index)
                seen_ids_S[place] = reserved.absent if found < 0 else found + reserved.first
            ids_M[i] = seen_ids_S[place]


@compiled
def _find(category: np.uint32, index: tuple[UInt32s, Int64s, int]) -> int:
    """Where a value stands; -1 where it does not."""
    values_K, starts, shift = index
    bucket = np.int64(category) >> shift
    if bucket >= len(starts) - 1:
        return -1
    low, high = starts[bucket], starts[bucket + 1]
    while low < high:
        middle = (low + high) >> 1
        if values_K[middle] < category:
            low = middle + 1
        else:
            high = middle
    return low if low < len(values_K) and values_K[low] == category else -1
