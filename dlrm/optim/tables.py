"""Optimizers of the embedding tables.

Tables that are sharded are updated by fbgemm inside the backward pass. Data-parallel tables have no fused kernel: torchrec
gives them dense gradients and no optimizer. :class:`TouchedRowOptimizer` gives them the arithmetic that fbgemm would have
applied, so that the choice of a sharding type does not change the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.distributed.optim import _apply_optimizer_in_backward  # type: ignore[attr-defined]
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import optimizers as placeholders
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from dlrm.config.optim import OptimConfig, RowwiseAdagrad, SparseAdagrad, SparseAdam, SparseOptimizer, SparseSgd
from dlrm.errors import ConfigError
from dlrm.table_names import table_name


def check_table_optimizer(config: SparseOptimizer, device: torch.device) -> None:
    """Refuse what fbgemm has no kernel for.

    Raises:
        ConfigError: Adam on CPU.
    """
    if isinstance(config, SparseAdam) and device.type == "cpu":
        message = "is adam, for which fbgemm has no CPU kernel; use rowwise_adagrad, adagrad or sgd, or a CUDA device"
        raise ConfigError.at("optim.sparse.kind", message)


def fuse_optimizer(tables: EmbeddingBagCollection, config: OptimConfig) -> None:
    """Mark every table with its optimizer, rate and hyper-parameters before it is sharded.

    Tables whose ``lr_scale`` differs end up in fused kernels of their own.
    """
    for table in tables.embedding_bag_configs():
        optimizer_class, arguments = _fbgemm_optimizer(config.sparse)
        arguments["lr"] = config.sparse.lr * config.lr_scale.get(table_name(table.name), 1.0)
        weight = tables.embedding_bags[table.name].weight
        _apply_optimizer_in_backward(optimizer_class, [weight], arguments)


def table_state_shapes(config: SparseOptimizer, rows: int, dim: int) -> dict[str, tuple[int, ...]]:
    """By name the shapes of the float32 state that the optimizer of a table keeps, whatever kernel trains the table."""
    if isinstance(config, SparseSgd):
        return {}
    if isinstance(config, SparseAdam):
        return {"exp_avg": (rows, dim), "exp_avg_sq": (rows, dim)}
    return {"sum": (rows,) if isinstance(config, RowwiseAdagrad) else (rows, dim)}


def _fbgemm_optimizer(config: SparseOptimizer) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """The optimizer class by which torchrec names an fbgemm kernel, and that kernel's hyper-parameters."""
    if isinstance(config, SparseSgd):
        return torch.optim.SGD, {}
    if isinstance(config, SparseAdam):  # torch's own class does not take the names that the kernel has for its betas
        return placeholders.Adam, {"beta1": config.beta1, "beta2": config.beta2, "eps": config.eps}
    kind = RowWiseAdagrad if isinstance(config, RowwiseAdagrad) else torch.optim.Adagrad
    return kind, {"eps": config.eps}


class TouchedRowOptimizer(torch.optim.Optimizer):
    """SGD, Adagrad or row-wise Adagrad of whole tables with fbgemm's sparse arithmetic.

    With g the gradient of a row w of width D: SGD subtracts ``lr * g``; Adagrad adds g^2 to its accumulator s (one a
    weight), row-wise Adagrad adds mean(g^2) (one a row), and both subtract ``lr * g / (sqrt(s) + eps)``. Rows whose
    gradient is zero, untouched ones above all, stay as they are, so only the others are computed.

    Args:
        params: tables, each (rows, D).
        config: sgd, adagrad or rowwise_adagrad.
        lr: learning rate of these tables.
    """

    def __init__(self, params: Iterable[torch.Tensor], config: SparseOptimizer, lr: float) -> None:
        self._config = config
        super().__init__(params, {"lr": lr})
        for group in self.param_groups:
            for table in group["params"]:  # all state exists from the start, so that a checkpoint can be loaded into it
                if isinstance(config, SparseAdagrad):
                    self.state[table]["sum"] = torch.zeros_like(table, memory_format=torch.contiguous_format).detach()
                elif isinstance(config, RowwiseAdagrad):
                    self.state[table]["sum"] = table.detach().new_zeros(table.shape[0])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every touched row. ``closure`` exists for torch's interface and must be None."""
        assert closure is None, "the pipeline has computed the loss already"
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, table.grad, group["lr"])

    def _update(self, table: torch.Tensor, gradient: torch.Tensor, lr: float) -> None:
        rows = gradient.ne(0).any(dim=1).nonzero().squeeze(1)
        gradient_RD = gradient[rows]
        config = self._config
        if isinstance(config, SparseAdagrad | RowwiseAdagrad):
            state = self.state[table]["sum"]
            square = gradient_RD.square()
            state.index_add_(0, rows, square if isinstance(config, SparseAdagrad) else square.mean(dim=1))
            root = state[rows].sqrt() if isinstance(config, SparseAdagrad) else state[rows].sqrt().unsqueeze(1)
            gradient_RD = gradient_RD / (root + config.eps)
        table.detach().index_add_(0, rows, gradient_RD, alpha=-lr)
