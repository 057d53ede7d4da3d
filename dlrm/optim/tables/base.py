"""What the trainer asks of an optimizer of tables. Its own file alone knows its hyper-parameters and its arithmetic."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from dlrm.config.optim import OptimConfig

BYTES_PER_NUMBER = 4
"""State is float32, and weights are unless ``precision.tables`` says otherwise."""
NO_FACTORS: Mapping[str, float] = {}
"""Every table learns at its own rate."""


class TableOptimizer(ABC):
    """An optimizer of tables, fused into the backward pass by fbgemm where a table is sharded.

    Attributes:
        kind: as the configuration calls it; lr: rate of a step, before the schedule and a table's own factor.
        initial_state: what its state starts from, every number of it.
        on_cpu: whether fbgemm has a kernel for the CPU.
        data_parallel: whether :meth:`directions` does for data-parallel tables, which have no kernel, what the kernel does.
        by_row: whether the columns of a row share state, so that the kernel, which sees the columns of one shard only, is
            another algorithm where a table is cut into columns (:mod:`dlrm.sharding.column_shards` takes its place there).
        weight_bytes: of a weight of the tables.
        temporaries: how often :meth:`directions` takes the memory of all its tables at once, its result included.
    """

    on_cpu = True
    data_parallel = True
    by_row = False
    temporaries = 2
    weight_bytes = BYTES_PER_NUMBER

    def __init__(self, kind: str, lr: float, *, initial_state: float = 0.0) -> None:
        self.kind, self.lr, self.initial_state = kind, lr, initial_state

    @property
    @abstractmethod
    def kernel(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        """The class by which torchrec names fbgemm's kernel, and the kernel's hyper-parameters besides the rate."""

    @abstractmethod
    def state_shapes(self, rows: int, dim: int) -> dict[str, tuple[int, ...]]:
        """By name the shapes of the float32 state of a table, whatever trains it; the names are fbgemm's."""

    @abstractmethod
    def directions(self, states: list[dict[str, torch.Tensor]], gradients_RD: list[torch.Tensor]) -> list[torch.Tensor]:
        """What is subtracted from whole tables, before the rate; brings their state up to date.

        A row whose gradient is zero must get zeros and keep its state.

        Args:
            states: of each table, by name.
            gradients_RD: of each table, float32 (R, D) with its own R and D.

        Returns:
            Of each table (R, D).
        """

    def padding_factor(self, dim: int, padded: int) -> float:
        """By which the rate of a table is multiplied whose rows of ``dim`` numbers are padded to so many.

        A kernel takes the mean of a row's squared gradients over the padding, too. Where gradients come multiplied by the
        inverse of this, that is the mean over the row itself, and the update is its own once this factor makes up for them.
        """
        return math.sqrt(dim / padded) if self.by_row else 1.0

    def block_bytes(self, rows: int, columns: int) -> int:
        """Bytes of the weights and the state of a block of a table."""
        state = sum(math.prod(shape) for shape in self.state_shapes(rows, columns).values())
        return rows * columns * self.weight_bytes + state * BYTES_PER_NUMBER


def table_rate(optimizer: TableOptimizer, config: OptimConfig, table: str) -> float:
    """The rate of a table before the schedule; factors for padding come after that, which knows a least rate."""
    return optimizer.lr * config.lr_scale.get(table, 1.0)
