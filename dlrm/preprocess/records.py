"""Parsed rows as *records*: arrays of a structured type, whose rows are moved as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlrm.config.prepare import PreprocessConfig

Records = npt.NDArray[np.void]
Bools = npt.NDArray[np.bool_]
UInt32s = npt.NDArray[np.uint32]
UInt64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]


def record_type(config: PreprocessConfig) -> np.dtype[np.void]:
    """How a row is laid out, little endian.

    Fields: ``key`` uint64, where the row goes (only if rows are shuffled); ``flags`` uint32, bit 0 the label, bit 1 + f
    whether category f is missing; ``dense`` float32 (N,), transformed; ``categories`` uint32 (F,), 0 where missing.
    """
    fields: list[Any] = [
        ("flags", "<u4", ((config.num_sparse + 32) // 32,)),
        ("dense", "<f4", (config.num_dense,)),
        ("categories", "<u4", (config.num_sparse,)),
    ]
    return np.dtype([("key", "<u8"), *fields] if config.shuffle else fields)


@dataclass(frozen=True)
class Columns:
    """M rows by column.

    Attributes:
        labels_M: uint8 (M,), 0 or 1.
        dense_MN: float32 (M, N), transformed.
        categories_FM: uint32 (F, M), the raw values, 0 where missing.
        missing_FM: bool (F, M), where the field is empty.
    """

    labels_M: npt.NDArray[np.uint8]
    dense_MN: npt.NDArray[np.float32]
    categories_FM: UInt32s
    missing_FM: Bools

    @classmethod
    def of(cls, records_M: Records) -> Columns:
        """The columns of records."""
        categories_MF = records_M["categories"]
        bytes_MB = np.ascontiguousarray(records_M["flags"]).view(np.uint8)
        bits_MB = np.unpackbits(bytes_MB, axis=1, bitorder="little")
        missing_MF = bits_MB[:, 1 : 1 + categories_MF.shape[1]].view(np.bool_)
        return cls(
            labels_M=bits_MB[:, 0],
            dense_MN=np.ascontiguousarray(records_M["dense"]),
            categories_FM=np.ascontiguousarray(categories_MF.T),
            missing_FM=np.ascontiguousarray(missing_MF.T),
        )
