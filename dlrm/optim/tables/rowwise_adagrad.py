"""Row-wise Adagrad, with g the gradient of a row: ``s += mean(g^2); w -= lr * g / (sqrt(s) + eps)``."""

from __future__ import annotations

from typing import Any

import torch
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from dlrm.config.optim import RowwiseAdagrad
from dlrm.optim.tables.base import TableOptimizer


class TableRowwiseAdagrad(TableOptimizer):
    """Adagrad of tables with one accumulator a row."""

    by_row = True

    def __init__(self, config: RowwiseAdagrad) -> None:
        super().__init__(config.kind, config.lr)
        self.eps = config.eps

    @property
    def kernel(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        """Fbgemm's EXACT_ROWWISE_ADAGRAD."""
        return RowWiseAdagrad, {"eps": self.eps}

    def state_shapes(self, rows: int, dim: int) -> dict[str, tuple[int, ...]]:
        """``sum`` of the means of the squared gradients."""
        return {"sum": (rows,)}

    def direction(
        self, state: dict[str, torch.Tensor], rows_R: torch.Tensor, gradient_RD: torch.Tensor
    ) -> torch.Tensor:
        """``g / (sqrt(s) + eps)``."""
        sums = state["sum"].index_add_(0, rows_R, gradient_RD.square().mean(dim=1))
        return gradient_RD / (sums[rows_R].sqrt().unsqueeze(1) + self.eps)
