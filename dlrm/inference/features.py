"""What a model takes: rows whose columns have been turned into numbers and ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dlrm.data.bounds import outside
from dlrm.data.source import Samples
from dlrm.errors import DataError
from dlrm.schema import Schema


@dataclass(frozen=True)
class Features:
    """B rows, on the host.

    Attributes:
        dense_BN: float32 (B, N).
        ids_BS: int32 or int64 (B, S), S = schema.ids_per_sample: the ids of feature 0, then those of feature 1, ...
        lengths_BF: int32 (B, F), ids of each bag, at most the feature's hotness; None where every bag is full. What lies
            beyond a bag's length in ``ids_BS`` is 0 and no id.
    """

    dense_BN: torch.Tensor
    ids_BS: torch.Tensor
    lengths_BF: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.ids_BS.shape[0]

    def __getitem__(self, rows: slice) -> Features:
        lengths_BF = None if self.lengths_BF is None else self.lengths_BF[rows]
        return Features(self.dense_BN[rows], self.ids_BS[rows], lengths_BF)

    @classmethod
    def of(cls, samples: Samples) -> Features:
        """Samples of a data set, without their labels."""
        return cls(samples.dense_BN, samples.ids_BS, samples.lengths_BF)

    @classmethod
    def joined(cls, parts: Sequence[Features], schema: Schema) -> Features:
        """The rows of all parts, in order."""
        if len(parts) == 1:
            return parts[0]
        lengths_BF = None
        if any(part.lengths_BF is not None for part in parts):
            full_F = torch.tensor([feature.hotness for feature in schema.sparse], dtype=torch.int32)
            lengths_BF = torch.cat(
                [full_F.expand(len(part), -1) if part.lengths_BF is None else part.lengths_BF for part in parts]
            )
        return cls(
            torch.cat([part.dense_BN for part in parts]),
            torch.cat([part.ids_BS for part in parts]),  # int64 where one of them is
            lengths_BF,
        )


def check_features(features: Features, schema: Schema, *, name: str) -> None:
    """See that a model can be asked with these rows: table kernels read what an id says, wherever that is.

    Args:
        features: the rows.
        schema: of the model.
        name: how messages call where they come from; they count the rows from 1.

    Raises:
        DataError: an id outside of its table, a dense value that is not finite; the first such row, and its column.
    """
    hotness_F = torch.tensor([feature.hotness for feature in schema.sparse])
    feature_S = torch.arange(len(schema.sparse)).repeat_interleave(hotness_F)
    rows_S = torch.tensor([feature.rows for feature in schema.sparse])[feature_S]
    bad_ids_BS = outside(features.ids_BS, rows_S)
    bad_dense_BN = ~features.dense_BN.isfinite()
    bad_B = bad_ids_BS.any(1) | bad_dense_BN.any(1)
    if not bad_B.any():
        return
    at = int(bad_B.nonzero()[0])
    if bad_dense_BN[at].any():
        column = int(bad_dense_BN[at].nonzero()[0])
        problem, hint = f"{features.dense_BN[at, column].item()} is not finite", "give a finite number"
        raise DataError(name, problem, row=at + 1, column=schema.dense[column], hint=hint)
    place = int(bad_ids_BS[at].nonzero()[0])
    feature = schema.sparse[int(feature_S[place])]
    problem = f"id {features.ids_BS[at, place].item()} is outside of its table (0 .. {feature.rows - 1})"
    raise DataError(name, problem, row=at + 1, column=feature.name, hint="give an id of the table")
