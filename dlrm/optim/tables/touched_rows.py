"""The optimizer of data-parallel tables.

torchrec gives them dense gradients and no optimizer. Here they get the arithmetic that fbgemm would have applied, so that
the choice of a sharding type does not change the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from dlrm.optim.tables.base import TableOptimizer


class TouchedRowOptimizer(torch.optim.Optimizer):
    """A table optimizer of whole tables. Rows whose gradient is zero, untouched ones above all, stay as they are.

    Args:
        params: tables, each (rows, D).
        optimizer: what a step does to a row.
        lr: learning rate of these tables.
    """

    def __init__(self, params: Iterable[torch.Tensor], optimizer: TableOptimizer, lr: float) -> None:
        self._optimizer = optimizer
        super().__init__(params, {"lr": lr})
        for group in self.param_groups:
            for table in group["params"]:  # all state exists from the start, so that a checkpoint can be loaded into it
                shapes = optimizer.state_shapes(*table.shape)
                self.state[table].update({name: table.detach().new_zeros(shape) for name, shape in shapes.items()})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every touched row. ``closure`` exists for torch's interface and must be None."""
        assert closure is None, "the pipeline has computed the loss already"
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, table.grad, group["lr"])

    def _update(self, table: torch.Tensor, gradient: torch.Tensor, lr: float) -> None:
        rows_R = gradient.ne(0).any(dim=1).nonzero().squeeze(1)
        direction_RD = self._optimizer.direction(self.state[table], rows_R, gradient[rows_R])
        table.detach().index_add_(0, rows_R, direction_RD, alpha=-lr)
