"""Raw categories as ids of embedding tables, for all columns of a chunk at once.

With a vocabulary, ids are in ascending order of the raw values. ``reserved: separate`` sets id 0 apart for missing
categories and id 1 for those that are not in the vocabulary. With ``reserved: mlperf`` a missing category is the raw value
0, as in torchrec's and facebookresearch/dlrm's preprocessing, and every category has to be in the vocabulary. Hashed
categories get the ids that :func:`dlrm.data.raw.vocabulary.hashed_ids` gives where raw files are read directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from dlrm.compiled import compiled
from dlrm.config.data.raw import HashedCategories
from dlrm.config.prepare import ContiguousVocabulary
from dlrm.counter_rng import stream_key
from dlrm.data.raw.vocabulary import MISSING_ID, UNSEEN_ID
from dlrm.errors import ConfigError
from dlrm.preprocess.arrays import Bools, UInt32s, read_only
from dlrm.preprocess.lookup import Ids, SortedValues

_INT32_ROWS = 2**31  # tables with more rows need int64 ids
_BLOCK_ROWS = 256  # whose ids stay in a core's first cache while they are written by column
_NO_ID = -1


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
        ids_MF: Ids = np.empty(ids_FM.shape[::-1], ids_FM.dtype)
        _transpose(ids_FM, ids_MF)
        return ids_MF


@compiled
def _transpose(ids_FM: Ids, ids_MF: Ids) -> None:
    """As numpy does it, in blocks that stay in a core's first cache."""
    num_rows, num_columns = ids_MF.shape
    for start in range(0, num_rows, _BLOCK_ROWS):
        for f in range(num_columns):
            for row in range(start, min(start + _BLOCK_ROWS, num_rows)):
                ids_MF[row, f] = ids_FM[f, row]


class _Column(Protocol):
    rows: int

    def encode(self, categories_B: UInt32s, missing_B: Bools, ids_B: Ids) -> None:
        """Write the ids of a column's categories."""


def _columns(
    config: ContiguousVocabulary | HashedCategories, vocabularies: Sequence[UInt32s] | None, num_sparse: int | None
) -> Sequence[_Column]:
    if isinstance(config, ContiguousVocabulary):
        if vocabularies is None or num_sparse not in (None, len(vocabularies)):
            raise ValueError(f"{num_sparse} columns need as many vocabularies")
        of_convention = _MlperfColumn if config.reserved == "mlperf" else _SeparateColumn
        return [of_convention(f"cat_{f}", values) for f, values in enumerate(vocabularies)]
    count = len(config.rows) if num_sparse is None else num_sparse
    if len(config.rows) not in (1, count):
        message = f"gives {len(config.rows)} table sizes for {count} sparse columns: give one a column, or one for all"
        raise ConfigError.at("categories.rows", message)
    rows = config.rows * count if len(config.rows) == 1 else config.rows
    return [_HashedColumn(f"cat_{f}", size) for f, size in enumerate(rows)]


class _SeparateColumn:
    """0 missing, 1 not in the vocabulary, then the vocabulary."""

    def __init__(self, name: str, values: UInt32s) -> None:
        self._values = SortedValues(values)
        self._first_id = UNSEEN_ID + 1
        self.rows = self._first_id + len(values)

    def encode(self, categories_B: UInt32s, missing_B: Bools, ids_B: Ids) -> None:
        self._values.ids(
            categories_B, missing_B, ids_B, missing_id=MISSING_ID, absent_id=UNSEEN_ID, first_id=self._first_id
        )


class _MlperfColumn:
    """The vocabulary, to which 0 belongs if categories are missing."""

    def __init__(self, name: str, values: UInt32s) -> None:
        self._name = name
        self._values = SortedValues(values)
        self._missing_id = 0 if len(values) and values[0] == 0 else _NO_ID
        self.rows = len(values)

    def encode(self, categories_B: UInt32s, missing_B: Bools, ids_B: Ids) -> None:
        lowest_id = self._values.ids(
            categories_B, missing_B, ids_B, missing_id=self._missing_id, absent_id=_NO_ID, first_id=0
        )
        if lowest_id == _NO_ID:
            raise ValueError(f"{self._name} has a category that its vocabulary of all rows lacks")


class _HashedColumn:
    """0 missing, the others by hash."""

    def __init__(self, name: str, rows: int) -> None:
        self.rows = rows
        self._key = np.uint64(stream_key(0, "category", name) % 2**64)

    def encode(self, categories_B: UInt32s, missing_B: Bools, ids_B: Ids) -> None:
        _hash(read_only(categories_B), read_only(missing_B), self._key, np.uint64(self.rows - 1), ids_B)


@compiled
def _hash(categories_B: UInt32s, missing_B: Bools, key: np.uint64, size: np.uint64, ids_B: Ids) -> None:
    """:func:`dlrm.counter_rng.integers` of each category, + 1, without arrays in between."""
    for i in range(categories_B.shape[0]):
        z = np.uint64(categories_B[i]) * np.uint64(0x9E3779B97F4A7C15) + key
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        ids_B[i] = MISSING_ID if missing_B[i] else np.int64((z >> np.uint64(1)) % size) + 1
