"""From configuration to the optimizer of the tables, and from that to fbgemm's kernels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from dlrm.config.optim import OptimConfig, RowwiseAdagrad, SparseAdagrad, SparseAdam, SparseOptimizer, SparseSgd
from dlrm.distributed.internals import apply_optimizer_in_backward
from dlrm.errors import ConfigError
from dlrm.optim.tables.adagrad import TableAdagrad
from dlrm.optim.tables.adam import TableAdam
from dlrm.optim.tables.base import BYTES_PER_NUMBER, NO_FACTORS, TableOptimizer, table_rate
from dlrm.optim.tables.rowwise_adagrad import TableRowwiseAdagrad
from dlrm.optim.tables.sgd import TableSgd
from dlrm.table_names import table_name


def table_optimizer(config: SparseOptimizer, *, weight_bytes: int = BYTES_PER_NUMBER) -> TableOptimizer:
    """The configured optimizer, of tables whose weights have so many bytes."""
    optimizer = _table_optimizer(config)
    optimizer.weight_bytes = weight_bytes
    return optimizer


def _table_optimizer(config: SparseOptimizer) -> TableOptimizer:
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


def fuse_optimizer(
    weights: Mapping[str, torch.Tensor],
    optimizer: TableOptimizer,
    config: OptimConfig,
    factors: Mapping[str, float] = NO_FACTORS,
) -> None:
    """Mark every table with its optimizer, rate and hyper-parameters before it is sharded.

    Tables whose rates differ end up in fused kernels of their own. So do those with other factors, by which the rates of a
    schedule are multiplied: where both products are equal, kernels are told rates that are not, by a float32's last bit.

    Args:
        weights: of all tables, by the names that torchrec has for them.
        optimizer: of them.
        config: with factors of single tables' rates.
        factors: further ones (:func:`padding_factors`).
    """
    kind, arguments = optimizer.kernel
    factor_of: dict[float, float] = {}  # by rate
    for name, weight in weights.items():
        factor = factors.get(table_name(name), 1.0)
        lr = table_rate(optimizer, config, table_name(name)) * factor
        while factor_of.setdefault(_as_float32(lr), factor) != factor:
            lr = float(np.nextafter(np.float32(lr), np.float32(np.inf)))
        apply_optimizer_in_backward(kind, [weight], {**arguments, "lr": lr})


def _as_float32(rate: float) -> float:
    """As kernels keep it."""
    return float(np.float32(rate))


def padding_factors(
    optimizer: TableOptimizer, sizes: Mapping[str, tuple[int, int]], widths: Mapping[str, int]
) -> dict[str, float]:
    """By what the rates of tables are multiplied whose rows are padded, by name; those without need for it are left out.

    Args:
        optimizer: of the tables.
        sizes: (rows, padded width) of each table.
        widths: without the padding.
    """
    found = {name: optimizer.padding_factor(widths[name], padded) for name, (_, padded) in sizes.items()}
    return {name: factor for name, factor in found.items() if factor != 1}
