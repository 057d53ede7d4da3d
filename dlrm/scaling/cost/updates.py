"""What optimizers outside of fused kernels do in a step, found by having them do it to tensors without memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dlrm.config.optim import DenseOptimizer
from dlrm.distributed.internals import FakeTensors
from dlrm.optim.tables.base import TableOptimizer
from dlrm.optim.training import dense_optimizer
from dlrm.scaling.operations import Operation, operations_of
from dlrm.scaling.stage_names import OPTIMIZER


def dense_update(config: DenseOptimizer, shapes: Sequence[Sequence[int]]) -> list[Operation]:
    """The step of the optimizer of dense parameters with these shapes, and the zeroing of their gradients."""
    with FakeTensors():
        weights = [torch.zeros(*shape, requires_grad=True) for shape in shapes]
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        optimizer = dense_optimizer(config, weights, lr=1.0)

        def step() -> None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

        return operations_of(step, OPTIMIZER)


def replicated_update(optimizer: TableOptimizer, sizes: Sequence[tuple[int, int]]) -> list[Operation]:
    """The step of tables of (rows, columns) that every rank has (:mod:`dlrm.optim.tables.data_parallel`)."""
    if not sizes:
        return []
    with FakeTensors():
        tables = [torch.zeros(*size) for size in sizes]
        gradients = [torch.zeros(*size) for size in sizes]
        states = [
            {name: torch.zeros(*shape) for name, shape in optimizer.state_shapes(*size).items()} for size in sizes
        ]

        def step() -> None:
            torch._foreach_add_(tables, optimizer.directions(states, gradients), alpha=-1.0)
            torch._foreach_zero_(gradients)

        return operations_of(step, OPTIMIZER)
