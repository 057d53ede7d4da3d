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
    temporaries = 1  # squares, then directions

    def __init__(self, config: RowwiseAdagrad) -> None:
        super().__init__(config.kind, config.lr, initial_state=config.initial_accumulator)
        self.eps = config.eps

    @property
    def kernel(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        """Fbgemm's EXACT_ROWWISE_ADAGRAD."""
        return RowWiseAdagrad, {"eps": self.eps}

    def state_shapes(self, rows: int, dim: int) -> dict[str, tuple[int, ...]]:
        """``sum`` of the means of the squared gradients."""
        return {"sum": (rows,)}

    def directions(self, states: list[dict[str, torch.Tensor]], gradients_RD: list[torch.Tensor]) -> list[torch.Tensor]:
        """``g / (sqrt(s) + eps)``."""
        sums_R = [state["sum"] for state in states]
        squares_RD = torch._foreach_mul(gradients_RD, gradients_RD)
        torch._foreach_add_(sums_R, [square_RD.mean(dim=1) for square_RD in squares_RD])
        del squares_RD  # as large as the tables, and so are the directions
        roots_R = torch._foreach_sqrt(sums_R)
        torch._foreach_add_(roots_R, self.eps)
        return list(torch._foreach_div(gradients_RD, [root_R[:, None] for root_R in roots_R]))
