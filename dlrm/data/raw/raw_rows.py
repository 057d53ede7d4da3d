"""Raw Criteo rows in memory: what a file says, before any transform."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

# What no file can hold stands for an empty field: integers have at most 18 digits, categories no sign.
MISSING_INTEGER = int(np.iinfo(np.int64).min)
MISSING_CATEGORY = -1


@dataclass(frozen=True)
class RawRows:
    """M rows, column by column (every row of an array is a column of the file).

    Attributes:
        labels_M: uint8 (M,), 0 or 1; 0 where the rows have no labels.
        integers_NM: int64 (N, M), :data:`MISSING_INTEGER` where the field is empty.
        categories_FM: int64 (F, M), 0 .. 2^32 - 1 (or the decimal id); :data:`MISSING_CATEGORY` where it is empty.
    """

    labels_M: npt.NDArray[np.uint8]
    integers_NM: Int64s
    categories_FM: Int64s

    def __len__(self) -> int:
        return len(self.labels_M)

    def __getitem__(self, rows: slice) -> RawRows:
        return RawRows(self.labels_M[rows], self.integers_NM[:, rows], self.categories_FM[:, rows])

    @classmethod
    def concatenated(cls, blocks: list[RawRows]) -> RawRows:
        """The rows of all blocks (at least one), in order."""
        return cls(
            labels_M=np.concatenate([block.labels_M for block in blocks]),
            integers_NM=np.concatenate([block.integers_NM for block in blocks], axis=1),
            categories_FM=np.concatenate([block.categories_FM for block in blocks], axis=1),
        )
