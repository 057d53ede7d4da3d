"""Rows as they are written to a part, on their way there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PackedRows:
    """M rows.

    Attributes:
        dense_MN: float32 (M, N); ids_MF: int32 or int64 (M, F); labels_M: uint8 (M,).
    """

    dense_MN: npt.NDArray[np.float32]
    ids_MF: npt.NDArray[Any]
    labels_M: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PieceCounts:
    """What was counted in some rows.

    Attributes:
        clicks: rows with label 1; missing: empty fields by column, of the columns where that is known.
    """

    clicks: int
    missing: dict[str, int]

    def __add__(self, other: PieceCounts) -> PieceCounts:
        """Of both; columns that are not known of one are not known of both."""
        missing = {name: count + other.missing[name] for name, count in self.missing.items() if name in other.missing}
        return PieceCounts(self.clicks + other.clicks, missing)
