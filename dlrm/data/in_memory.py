"""A split that lies in memory as compact arrays."""

from __future__ import annotations

import os

import torch

from dlrm.data.fingerprint import FileFingerprint, fingerprint_of
from dlrm.data.source import Day, Samples, Source
from dlrm.schema import Schema


class InMemorySource(Source):
    """The samples of one split, decoded when they are read.

    Args:
        name: how messages call it.
        schema: the columns of a sample.
        dense_MN: float32 (M, N), finite; M samples.
        ids_MS: an integer type (M, S), S = schema.ids_per_sample, each id within its table.
        labels_MT: an integer type (M, T), 0 or 1.
        paths: the files that they were read from.
        days: see :attr:`~dlrm.data.source.Source.days`; one if left out.
    """

    def __init__(
        self,
        name: str,
        schema: Schema,
        dense_MN: torch.Tensor,
        ids_MS: torch.Tensor,
        labels_MT: torch.Tensor,
        paths: tuple[str, ...] = (),
        days: tuple[Day, ...] = (),
    ) -> None:
        super().__init__(name, schema, labels_MT.shape[0])
        self.dense_MN, self.ids_MS, self.labels_MT = dense_MN, ids_MS, labels_MT
        self._paths, self._days = paths, days

    @property
    def days(self) -> tuple[Day, ...]:
        """The parts of the split."""
        return self._days or super().days

    def read(self, index_B: torch.Tensor) -> Samples:
        """The samples at these indices (int64 (B,)), in this order."""
        dense_BN, ids_BS, labels_BT = (
            torch.from_numpy(array.numpy().take(index_B.numpy(), axis=0))  # NumPy's copy stays in this thread
            for array in (self.dense_MN, self.ids_MS, self.labels_MT)
        )
        return Samples(dense_BN, ids_BS.to(torch.int64), labels_BT.to(torch.float32))

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """The files that the samples were read from."""
        return tuple(fingerprint_of(path, os.path.basename(path)) for path in self._paths)
