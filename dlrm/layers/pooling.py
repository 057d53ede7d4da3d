"""From what the tables return to one tensor, the same for every sharding plan."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor


class PooledColumns(nn.Module):
    """The pooled embeddings side by side: features in a fixed order, sums turned into means where that is asked for.

    Two things depend on the plan otherwise. A sharded collection returns its tables in an order of its own. And torchrec
    1.8 gets mean pooling wrong when only some tables are sharded by rows: if one of those is mean-pooled, the pooled
    embeddings of all tables that are *not* sharded by rows are divided by their bag sizes, too (sums become means, means
    are divided twice). So the tables all sum, and the mean is made here.

    (A module of its own also because the pipelines trace what holds tables, and this depends on names that are not known
    while they do.)

    Attributes:
        names: the features in order.
        decay: what the columns go through at the end: nothing, or what ``optim.embedding_decay`` puts there.
    """

    mean_F1: torch.Tensor
    rows_per_id_F1: torch.Tensor
    table_of_X: torch.Tensor
    factor_X: torch.Tensor

    def __init__(
        self,
        names: Sequence[str],
        dims: Sequence[int],
        mean: Sequence[bool],
        *,
        padded_dims: Sequence[int] | None = None,
        rows_per_id: Sequence[int] | None = None,
    ) -> None:
        """Make the module.

        Args:
            names: features in the order in which their columns shall stand.
            dims: columns of each.
            mean: for each, whether its embeddings are averaged (or else summed) over a sample's ids.
            padded_dims: columns that come of each, of which the first ``dims`` are wanted; the same if left out.
            rows_per_id: for each, how many rows its bags hold of an id; 1 if left out.
        """
        super().__init__()
        self.names = list(names)
        self.decay: nn.Module = nn.Identity()
        self.any_mean = any(mean)
        self._dims, self._padded_dims = list(dims), list(padded_dims or dims)
        self._scaled = False
        self.register_buffer("mean_F1", torch.tensor(mean)[:, None], persistent=False)
        per_id = torch.tensor(rows_per_id or [1] * len(names))
        self.register_buffer("rows_per_id_F1", per_id[:, None], persistent=False)
        table_of_X = torch.arange(len(names)).repeat_interleave(torch.tensor(dims))
        self.register_buffer("table_of_X", table_of_X, persistent=False)
        self.register_buffer("factor_X", torch.ones(len(table_of_X)), persistent=False)

    def forward(self, pooled: KeyedTensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """Order and average.

        Args:
            pooled: sums of embeddings, each times its id's weight where ids have weights, by feature, in any order.
            sparse: the ids that were summed, features in any order.

        Returns:
            float32 (B, X): the columns of feature ``names[0]``, then those of ``names[1]``, ... Empty bags give zeros.
            The mean of ids with weights is the weighted one, sum of w_i e_i / sum of w_i; zeros where all weights are 0.
        """
        if pooled.keys() == self.names:
            sums_BX: torch.Tensor = pooled.values()
            if self._dims != self._padded_dims:
                sums_BX = self._without_padding(sums_BX.split(self._padded_dims, dim=1))
        else:
            by_name = pooled.to_dict()
            sums_BX = self._without_padding([by_name[name] for name in self.names])
        if self._scaled:
            sums_BX = _ScaledGradient.apply(sums_BX, self.factor_X)  # type: ignore[no-untyped-call]
        pooled_BX = sums_BX / self._divisors(sparse) if self.any_mean else sums_BX
        return self.decay(pooled_BX)  # type: ignore[no-any-return]

    @property
    def columns(self) -> int:
        """X, of the output."""
        return sum(self._dims)

    def scale_gradients(self, factors: Sequence[float]) -> None:
        """Multiply the gradients that the tables get, those of each feature by its factor."""
        self.factor_X *= torch.tensor(factors)[self.table_of_X]
        self._scaled = bool((self.factor_X != 1).any())

    def freeze(self, features: Collection[str]) -> None:
        """Give the columns of some features gradients of zeros."""
        self.scale_gradients([0.0 if name in features else 1.0 for name in self.names])

    def _without_padding(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([part_BD[:, :dim] for part_BD, dim in zip(parts, self._dims, strict=True)], dim=1)

    def _divisors(self, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """(B, X): for each column the size of the bag, or the sum of its weights, where it is averaged, else 1."""
        keys = sparse.keys()
        lengths_FB = sparse.lengths().view(len(keys), -1)
        if (weights := sparse.weights_or_none()) is None:
            sizes_FB = lengths_FB.clamp(min=1)
        else:
            sums = torch.segment_reduce(weights, "sum", lengths=sparse.lengths().long(), unsafe=True)
            sizes_FB = torch.where(sums > 0, sums, 1).view(lengths_FB.shape)
        if keys != self.names:
            sizes_FB = sizes_FB[[keys.index(name) for name in self.names]]
        divisors_FB = torch.where(self.mean_F1, sizes_FB / self.rows_per_id_F1, 1)
        return divisors_FB.index_select(0, self.table_of_X).t()


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, columns_BX: torch.Tensor, factor_X: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(factor_X)
        return columns_BX.view_as(columns_BX)

    @staticmethod
    def backward(ctx: Any, gradient_BX: torch.Tensor) -> tuple[torch.Tensor, None]:
        (factor_X,) = ctx.saved_tensors
        return gradient_BX * factor_X, None
