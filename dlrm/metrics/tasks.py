"""The metrics of several tasks on the same samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dlrm.distributed.collectives import Collectives
from dlrm.metrics.binary import BinaryMetrics, BinaryResult

Results = dict[str, BinaryResult]
"""By name of the task, in the order of the schema: the first decides."""


def deciding(results: Results) -> BinaryResult:
    """The result of the first task: what checkpoints are compared by, and a target is reached with."""
    return next(iter(results.values()))


class TaskMetrics:
    """A :class:`~dlrm.metrics.binary.BinaryMetrics` a task, with its memory.

    Args:
        tasks: T names; device: where predictions are.
        weighted: count each sample by its weight, not once.
    """

    def __init__(self, tasks: Sequence[str], device: torch.device, *, weighted: bool = False) -> None:
        self._by_task = {task: BinaryMetrics(device, weighted=weighted) for task in tasks}

    def update(self, logits_BT: torch.Tensor, labels_BT: torch.Tensor, weights_BT: torch.Tensor) -> None:
        """Count a batch.

        Args:
            logits_BT: (B, T), any floating type.
            labels_BT: (B, T), 0 or 1.
            weights_BT: (B, T), 0 for padding and missing labels, else the sample's weight.

        Raises:
            ValueError: the shapes differ.
        """
        columns = (logits_BT.unbind(1), labels_BT.unbind(1), weights_BT.unbind(1))
        for metrics, logits_B, labels_B, weights_B in zip(self._by_task.values(), *columns, strict=True):
            metrics.update(logits_B, labels_B, weights_B)

    def all_reduce(self, collectives: Collectives) -> None:
        """Replace what this rank has counted by the sum over all ranks; once, after all updates."""
        for metrics in self._by_task.values():
            metrics.all_reduce(collectives)

    def compute(self) -> Results:
        """The metrics of everything counted.

        Raises:
            DivergedError: a prediction was NaN or infinite.
        """
        return {task: metrics.compute() for task, metrics in self._by_task.items()}
