"""Adagrad (Duchi et al. 2011), with g the gradient of a weight: ``s += g^2; w -= lr * g / (sqrt(s) + eps)``."""

from __future__ import annotations

from typing import Any

import torch

from dlrm.config.optim import SparseAdagrad
from dlrm.optim.tables.base import TableOptimizer


class TableAdagrad(TableOptimizer):
    """Adagrad of tables, one accumulator a weight."""

    def __init__(self, config: SparseAdagrad) -> None:
        super().__init__(config.kind, config.lr, initial_state=config.initial_accumulator)
        self.eps = config.eps

    @property
    def kernel(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        """Fbgemm's EXACT_ADAGRAD."""
        return torch.optim.Adagrad, {"eps": self.eps}

    def state_shapes(self, rows: int, dim: int) -> dict[str, tuple[int, ...]]:
        """``sum`` of the squared gradients."""
        return {"sum": (rows, dim)}

    def directions(self, states: list[dict[str, torch.Tensor]], gradients_RD: list[torch.Tensor]) -> list[torch.Tensor]:
        """``g / (sqrt(s) + eps)``."""
        sums_RD = [state["sum"] for state in states]
        torch._foreach_add_(sums_RD, torch._foreach_mul(gradients_RD, gradients_RD))
        roots_RD = torch._foreach_sqrt(sums_RD)
        torch._foreach_add_(roots_RD, self.eps)
        return list(torch._foreach_div(gradients_RD, roots_RD))
