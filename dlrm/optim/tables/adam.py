"""Adam (arXiv:1412.6980) of the rows that a batch touches, by fbgemm's kernel alone."""

from __future__ import annotations

from typing import Any

import torch
from torchrec.optim import optimizers as placeholders

from dlrm.config.optim import SparseAdam
from dlrm.optim.tables.base import TableOptimizer


class TableAdam(TableOptimizer):
    """Adam of tables, on CUDA only. The moments of rows that a step does not touch stay as they are.

    Data-parallel tables have no such Adam: there is no CPU kernel that it could be compared with.
    """

    on_cpu = False
    data_parallel = False

    def __init__(self, config: SparseAdam) -> None:
        super().__init__(config.kind, config.lr)
        self._arguments = {"beta1": config.beta1, "beta2": config.beta2, "eps": config.eps}

    @property
    def kernel(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        """Fbgemm's ADAM; torch's own class does not take the names that the kernel has for its betas."""
        return placeholders.Adam, self._arguments

    def state_shapes(self, rows: int, dim: int) -> dict[str, tuple[int, ...]]:
        """The moments."""
        return {"exp_avg": (rows, dim), "exp_avg_sq": (rows, dim)}

    def directions(self, states: list[dict[str, torch.Tensor]], gradients_RD: list[torch.Tensor]) -> list[torch.Tensor]:
        """Not there; the planner leaves data-parallel out."""
        raise NotImplementedError("data-parallel tables have no Adam")
