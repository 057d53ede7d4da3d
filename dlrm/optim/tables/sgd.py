"""Stochastic gradient descent: ``w -= lr * g``."""

from __future__ import annotations

from typing import Any

import torch

from dlrm.config.optim import SparseSgd
from dlrm.optim.tables.base import TableOptimizer


class TableSgd(TableOptimizer):
    """SGD of tables; it keeps no state."""

    temporaries = 0

    def __init__(self, config: SparseSgd) -> None:
        super().__init__(config.kind, config.lr)

    @property
    def kernel(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        """Fbgemm's EXACT_SGD."""
        return torch.optim.SGD, {}

    def state_shapes(self, rows: int, dim: int) -> dict[str, tuple[int, ...]]:
        """Nothing."""
        return {}

    def directions(self, states: list[dict[str, torch.Tensor]], gradients_RD: list[torch.Tensor]) -> list[torch.Tensor]:
        """The gradients themselves."""
        return gradients_RD
