"""From what the tables return to one tensor, the same for every sharding plan."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor


class PooledColumns(nn.Module):
    """The pooled embeddings side by side: tables in a fixed order, sums turned into means where that is asked for.

    Two things depend on the plan otherwise. A sharded collection returns its tables in an order of its own. And torchrec
    1.8 gets mean pooling wrong when only some tables are sharded by rows: if one of those is mean-pooled, the pooled
    embeddings of all tables that are *not* sharded by rows are divided by their bag sizes, too (sums become means, means
    are divided twice). So the tables all sum, and the mean is made here.

    (A module of its own also because the pipelines trace what holds tables, and this depends on names that are not known
    while they do.)

    Attributes:
        names: the tables in order.
        decay: what the columns go through at the end: nothing, or what ``optim.embedding_decay`` puts there.
    """

    mean_F1: torch.Tensor
    table_of_X: torch.Tensor

    def __init__(self, names: Sequence[str], dims: Sequence[int], mean: Sequence[bool]) -> None:
        """Make the module.

        Args:
            names: tables in the order in which their columns shall stand.
            dims: columns of each.
            mean: for each, whether its embeddings are averaged (or else summed) over a sample's ids.
        """
        super().__init__()
        self.names = list(names)
        self.decay: nn.Module = nn.Identity()
        self.any_mean = any(mean)
        self.register_buffer("mean_F1", torch.tensor(mean)[:, None], persistent=False)
        table_of_X = torch.arange(len(names)).repeat_interleave(torch.tensor(dims))
        self.register_buffer("table_of_X", table_of_X, persistent=False)

    def forward(self, pooled: KeyedTensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """Order and average.

        Args:
            pooled: sums of embeddings by table, in any order of tables.
            sparse: the ids that were summed, features (named like the tables) in any order.

        Returns:
            float32 (B, X): the columns of table ``names[0]``, then those of ``names[1]``, ... Empty bags give zeros.
        """
        if pooled.keys() == self.names:
            sums_BX: torch.Tensor = pooled.values()
        else:
            by_name = pooled.to_dict()
            sums_BX = torch.cat([by_name[name] for name in self.names], dim=1)
        pooled_BX = sums_BX / self._divisors(sparse) if self.any_mean else sums_BX
        return self.decay(pooled_BX)  # type: ignore[no-any-return]

    def _divisors(self, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """Integers (B, X): for each column the size of the bag where it is averaged, else 1."""
        keys = sparse.keys()
        lengths_FB = sparse.lengths().view(len(keys), -1)
        if keys != self.names:
            lengths_FB = lengths_FB[[keys.index(name) for name in self.names]]
        divisors_FB = torch.where(self.mean_F1, lengths_FB.clamp(min=1), 1)
        return divisors_FB.index_select(0, self.table_of_X).t()
