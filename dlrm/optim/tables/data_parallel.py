"""The optimizer of data-parallel tables.

torchrec gives them dense gradients and no optimizer. Here they get the arithmetic that fbgemm would have applied, so that
the choice of a sharding type does not change the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from dlrm.optim.tables.base import TableOptimizer


class DataParallelTables(torch.optim.Optimizer):
    """A table optimizer of whole tables, all of them at once.

    A row that no id touches has a gradient of zeros, and every optimizer here leaves such a row and its state as they are.
    So there is no need to ask which rows were touched: on CUDA the answer would have to be waited for.

    Args:
        params: tables, each (rows, D).
        optimizer: what a step does to them.
        lr: learning rate of these tables.
    """

    def __init__(self, params: Iterable[torch.Tensor], optimizer: TableOptimizer, lr: float) -> None:
        self._optimizer = optimizer
        super().__init__(params, {"lr": lr})
        for group in self.param_groups:
            for table in group["params"]:  # all state exists from the start, so that a checkpoint can be loaded into it
                shapes = optimizer.state_shapes(*table.shape)
                self.state[table].update(
                    {name: table.detach().new_full(shape, optimizer.initial_state) for name, shape in shapes.items()}
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every table that has a gradient. ``closure`` exists for torch's interface and must be None."""
        assert closure is None, "the pipeline has computed the loss already"
        for group in self.param_groups:
            tables = [table for table in group["params"] if table.grad is not None]
            if tables:
                states = [self.state[table] for table in tables]
                directions = self._optimizer.directions(states, [table.grad for table in tables])
                torch._foreach_add_(tables, directions, alpha=-group["lr"])
