"""Samples with histories, for tests of what models make of them."""

from __future__ import annotations

import torch

from dlrm.data.fingerprint import FileFingerprint
from dlrm.data.source import Samples, Source
from dlrm.schema import Schema, SparseFeature

# Two histories share a table, a third has another; two tables are pooled.
SCHEMA = Schema(
    dense=("a", "b"),
    sparse=(
        SparseFeature("user", 50),
        SparseFeature("item", 30),
        SparseFeature("shop", 3),
        SparseFeature("tags", 7, hotness=2),
        SparseFeature("clicked", 30, hotness=6, history_of="item"),
        SparseFeature("bought", 30, hotness=3, history_of="item"),
        SparseFeature("visited", 3, hotness=4, history_of="shop"),
    ),
)


class HistorySource(Source):
    """Random samples in memory; histories and bags have any length up to their hotness, none included."""

    def __init__(self, samples: int, seed: int = 0) -> None:
        super().__init__("histories", SCHEMA, samples)
        random = torch.Generator().manual_seed(seed)
        ids, lengths = [], []
        for feature in SCHEMA.sparse:
            ids_ML = torch.randint(feature.rows, (samples, feature.hotness), generator=random)
            length_M = torch.randint(feature.hotness + 1, (samples,), generator=random)
            if feature.hotness == 1:
                length_M = torch.ones_like(length_M)
            ids.append(ids_ML.masked_fill_(torch.arange(feature.hotness) >= length_M[:, None], 0))
            lengths.append(length_M)
        self._ids_MS, self._lengths_MF = torch.cat(ids, 1), torch.stack(lengths, 1).int()
        self._dense_MN = torch.randn(samples, len(SCHEMA.dense), generator=random)
        self._labels_M1 = (torch.rand(samples, 1, generator=random) < 0.3).float()

    def read(self, index_B: torch.Tensor) -> Samples:
        return Samples(
            self._dense_MN[index_B], self._ids_MS[index_B], self._labels_M1[index_B], self._lengths_MF[index_B]
        )

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        return ()
