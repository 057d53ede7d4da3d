"""Adagrad (Duchi et al. 2011), with g the gradient of a weight: ``s += g^2; w -= lr * g / (sqrt(s) + eps)``."""

from __future__ import annotations

from typing import Any

import torch

from dlrm.config.optim import SparseAdagrad
from dlrm.optim.tables.base import TableOptimizer


class TableAdagrad(TableOptimizer):
    """Adagrad of tables, one accumulator a weight."""

    def __init__(self, config: SparseAdagrad) -> None:
        super().__init__(config.kind, config.lr)
        self.eps = config.eps

    @property
    def kernel(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        """Fbgemm's EXACT_ADAGRAD."""
        return torch.optim.Adagrad, {"eps": self.eps}

    def state_shapes(self, rows: int, dim: int) -> dict[str, tuple[int, ...]]:
        """``sum`` of the squared gradients."""
        return {"sum": (rows, dim)}

    def direction(
        self, state: dict[str, torch.Tensor], rows_R: torch.Tensor, gradient_RD: torch.Tensor
    ) -> torch.Tensor:
        """``g / (sqrt(s) + eps)``."""
        sums = state["sum"].index_add_(0, rows_R, gradient_RD.square())
        return gradient_RD / (sums[rows_R].sqrt() + self.eps)
