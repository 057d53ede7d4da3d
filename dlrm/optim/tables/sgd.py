"""Stochastic gradient descent: ``w -= lr * g``."""

from __future__ import annotations

from typing import Any

import torch

from dlrm.config.optim import SparseSgd
from dlrm.optim.tables.base import TableOptimizer


class TableSgd(TableOptimizer):
    """SGD of tables; it keeps no state."""

    def __init__(self, config: SparseSgd) -> None:
        super().__init__(config.kind, config.lr)

    @property
    def kernel(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        """Fbgemm's EXACT_SGD."""
        return torch.optim.SGD, {}

    def state_shapes(self, rows: int, dim: int) -> dict[str, tuple[int, ...]]:
        """Nothing."""
        return {}

    def direction(
        self, state: dict[str, torch.Tensor], rows_R: torch.Tensor, gradient_RD: torch.Tensor
    ) -> torch.Tensor:
        """The gradient itself."""
        return gradient_RD
