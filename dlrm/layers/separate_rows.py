"""From what tables return whose rows are not summed to the rows of each feature, the same for every sharding plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor


class SeparateRows(nn.Module):
    """The rows of each feature, in the width that was asked for; :class:`~dlrm.layers.pooling.PooledColumns` for bags.

    (A module of its own because the pipelines trace what holds tables, and this depends on names that are not known while
    they do.)

    Args:
        dims: by feature the columns of a row that are wanted, the first ones of those that come.
    """

    def __init__(self, dims: Mapping[str, int]) -> None:
        super().__init__()
        self._dims = dict(dims)
        self._factors = dict.fromkeys(dims, 1.0)

    def forward(self, found: Mapping[str, JaggedTensor]) -> dict[str, JaggedTensor]:
        """By feature ``values`` float32 (R, D), the rows of its ids sample by sample, and ``lengths`` (B,).

        Args:
            found: what the tables return, with any columns after the D.
        """
        return {name: self._of_feature(found[name], dim, self._factors[name]) for name, dim in self._dims.items()}

    def scale_gradients(self, factors: Mapping[str, float]) -> None:
        """Multiply the gradients that the tables get, those of each feature by its factor."""
        for name, factor in factors.items():
            self._factors[name] *= factor

    def freeze(self, features: Collection[str]) -> None:
        """Give the rows of some features gradients of zeros; names of others are passed over."""
        self.scale_gradients({name: 0.0 for name in features if name in self._dims})

    @staticmethod
    def _of_feature(found: JaggedTensor, dim: int, factor: float) -> JaggedTensor:
        rows_RD = found.values()[:, :dim]
        if factor != 1:
            rows_RD = _Scaled.apply(rows_RD, factor)  # type: ignore[no-untyped-call]
        return JaggedTensor(values=rows_RD, lengths=found.lengths())


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, rows_RD: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return rows_RD.view_as(rows_RD)

    @staticmethod
    def backward(ctx: Any, gradient_RD: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient_RD * ctx.factor, None
