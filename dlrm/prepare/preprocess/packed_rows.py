"""Rows as they are written to a part, on their way there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlrm.prepare.preprocess.encode import Encoder
from dlrm.prepare.preprocess.raw_chunk import RawChunk


@dataclass(frozen=True)
class PackedRows:
    """M rows.

    Attributes:
        dense_MN: float32 (M, N); ids_MF: int32 or int64 (M, F); labels_M: uint8 (M,).
    """

    dense_MN: npt.NDArray[np.float32]
    ids_MF: npt.NDArray[Any]
    labels_M: npt.NDArray[np.uint8]

    @classmethod
    def encoded(cls, chunk: RawChunk, rows: slice, encoder: Encoder) -> PackedRows:
        """Some rows of a chunk."""
        return cls(
            dense_MN=chunk.dense_MN[rows],
            ids_MF=encoder.encode(chunk.categories_FM[:, rows], chunk.missing_FM[:, rows]),
            labels_M=chunk.labels_M[rows],
        )


@dataclass(frozen=True)
class PieceCounts:
    """What was counted in some rows.

    Attributes:
        clicks: rows with label 1; missing: empty fields by column, of the columns where that is known.
    """

    clicks: int
    missing: dict[str, int]

    @classmethod
    def of(cls, chunk: RawChunk, rows: slice) -> PieceCounts:
        """What can be counted in some rows of a chunk: the dense columns say no more where they were missing."""
        missing_FM = chunk.missing_FM[:, rows]
        missing = {f"cat_{f}": int(np.count_nonzero(missing_M)) for f, missing_M in enumerate(missing_FM)}
        return cls(int(np.count_nonzero(chunk.labels_M[rows])), missing)

    def __add__(self, other: PieceCounts) -> PieceCounts:
        """Of both; columns that are not known of one are not known of both."""
        missing = {name: count + other.missing[name] for name, count in self.missing.items() if name in other.missing}
        return PieceCounts(self.clicks + other.clicks, missing)
