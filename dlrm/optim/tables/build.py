"""From configuration to the optimizer of the tables, and from that to fbgemm's kernels."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dlrm.config.optim import OptimConfig, RowwiseAdagrad, SparseAdagrad, SparseAdam, SparseOptimizer, SparseSgd
from dlrm.distributed.internals import apply_optimizer_in_backward
from dlrm.errors import ConfigError
from dlrm.optim.tables.adagrad import TableAdagrad
from dlrm.optim.tables.adam import TableAdam
from dlrm.optim.tables.base import TableOptimizer
from dlrm.optim.tables.rowwise_adagrad import TableRowwiseAdagrad
from dlrm.optim.tables.sgd import TableSgd
from dlrm.table_names import table_name


def table_optimizer(config: SparseOptimizer) -> TableOptimizer:
    """The configured optimizer."""
    match config:
        case SparseSgd():
            return TableSgd(config)
        case SparseAdagrad():
            return TableAdagrad(config)
        case RowwiseAdagrad():
            return TableRowwiseAdagrad(config)
        case SparseAdam():
            return TableAdam(config)


def check_table_optimizer(optimizer: TableOptimizer, device: torch.device) -> None:
    """Refuse what fbgemm has no kernel for.

    Raises:
        ConfigError: e.g. Adam on CPU.
    """
    if device.type == "cpu" and not optimizer.on_cpu:
        others = "use rowwise_adagrad, adagrad or sgd, or a CUDA device"
        message = f"is {optimizer.kind}, for which fbgemm has no CPU kernel; {others}"
        raise ConfigError.at("optim.sparse.kind", message)


def fuse_optimizer(weights: Mapping[str, torch.Tensor], optimizer: TableOptimizer, config: OptimConfig) -> None:
    """Mark every table with its optimizer, rate and hyper-parameters before it is sharded.

    Tables whose ``lr_scale`` differs end up in fused kernels of their own. ``weights`` are those of the tables, by the
    names that torchrec has for them.
    """
    kind, arguments = optimizer.kernel
    for name, weight in weights.items():
        lr = optimizer.lr * config.lr_scale.get(table_name(name), 1.0)
        apply_optimizer_in_backward(kind, [weight], {**arguments, "lr": lr})
