"""A split that lies in memory as compact arrays."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from dlrm.data.fingerprint import FileFingerprint, fingerprint_of
from dlrm.data.source import Samples
from dlrm.schema import Schema


@dataclass(frozen=True)
class InMemorySource:
    """The samples of one split (:class:`~dlrm.data.source.Source`), decoded when they are read.

    Attributes:
        name: how messages call it.
        schema: the columns of a sample.
        dense_MN: float32 (M, N), finite; M samples.
        ids_MS: an integer type (M, S), S = schema.ids_per_sample, each id within its table.
        labels_MT: an integer type (M, T), 0 or 1.
        paths: the files that they were read from.
    """

    name: str
    schema: Schema
    dense_MN: torch.Tensor
    ids_MS: torch.Tensor
    labels_MT: torch.Tensor
    paths: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        """Samples in the split."""
        return self.labels_MT.shape[0]

    def read(self, index_B: torch.Tensor) -> Samples:
        """The samples at these indices (int64 (B,)), in this order."""
        dense_BN, ids_BS, labels_BT = (
            torch.from_numpy(array.numpy().take(index_B.numpy(), axis=0))  # NumPy's copy stays in this thread
            for array in (self.dense_MN, self.ids_MS, self.labels_MT)
        )
        return Samples(dense_BN, ids_BS.to(torch.int64), labels_BT.to(torch.float32))

    def locate(self, index: int, column: str) -> tuple[str, int]:
        """The name of these samples and the 1-based row among them."""
        return self.name, index + 1

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """The files that the samples were read from."""
        return tuple(fingerprint_of(path, os.path.basename(path)) for path in self.paths)
