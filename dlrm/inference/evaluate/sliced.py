"""Figures of slices, gathered while an evaluation goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dlrm.data.batch import Batch
from dlrm.distributed.collectives import Collectives
from dlrm.inference.evaluate.columns import Column, Dense
from dlrm.inference.evaluate.slicing import Slicing
from dlrm.metrics.binary import BinaryMetrics, BinaryResult
from dlrm.train.evaluator import Watcher
from dlrm.train.stepper import StepOutput

CELLS = 1 << 16
"""Of a slice's histogram, 1 MiB: its AUC is exact up to half as many distinct scores, and has an error bound beyond."""
_BUFFER_SAMPLES = 1 << 13
_BYTES = CELLS * 16 + _BUFFER_SAMPLES * 12


@dataclass(frozen=True)
class SliceResult:
    """Figures of a slice and a task.

    Attributes:
        column, slice: which; task: its name.
        share: of all samples that have a label of the task.
    """

    column: str
    slice: str
    task: str
    share: float
    result: BinaryResult

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        which = {"column": self.column, "slice": self.slice, "task": self.task}
        return {**which, "share": self.share, **self.result.to_dict()}


def slice_bytes(columns: Sequence[Column], tasks: int, *, values: int, buckets: int) -> int:
    """What slices by these columns take at most, and counting their values before that."""
    slices = sum(buckets if isinstance(column, Dense) else min(values, column.size) + 1 for column in columns)
    counts = sum(0 if isinstance(column, Dense) else (column.size + 1) * 8 for column in columns)
    return max(slices * tasks * _BYTES, counts)


class SliceScores(Watcher):
    """Divides what is scored into slices.

    Args:
        slicings: by each of several columns.
        tasks: names.
        weighted: count each sample by its weight, not once.
    """

    def __init__(self, slicings: Sequence[Slicing], tasks: Sequence[str], *, weighted: bool = False) -> None:
        self._slicings, self._tasks = slicings, tasks
        self._ahead: deque[list[torch.Tensor]] = deque()  # of batches that are not scored yet, by slicing
        self._metrics = [[[_metrics(weighted) for _ in tasks] for _ in slicing.labels] for slicing in slicings]

    def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same, of each of which it is kept what belongs to which slice until it is scored."""
        for batch in batches:
            self._ahead.append([slicing.slice_of(batch) for slicing in self._slicings])
            yield batch

    def scored(self, output: StepOutput) -> None:
        """Count a batch's scores."""
        scores_3BT = torch.stack((output.logits_BT.float(), output.labels_BT, output.weights_BT)).cpu()
        for of_slices, slice_B in zip(self._metrics, self._ahead.popleft(), strict=True):
            sizes = torch.bincount(slice_B, minlength=len(of_slices)).tolist()
            parts = scores_3BT[:, slice_B.argsort(stable=True)].split(sizes, dim=1)
            for of_tasks, part_3KT in zip(of_slices, parts, strict=True):
                for metrics, part_3K in zip(of_tasks, part_3KT.unbind(2), strict=True):
                    metrics.update(*part_3K)

    def results(self, collectives: Collectives) -> list[SliceResult]:
        """Of the samples of all ranks, without slices that a task has no sample in; collective, once."""
        found = []
        for slicing, of_slices in zip(self._slicings, self._metrics, strict=True):
            by_slice = [[_summed(metrics, collectives) for metrics in of_tasks] for of_tasks in of_slices]
            totals = [sum(result.samples for result in of_task) for of_task in zip(*by_slice, strict=True)]
            found += [
                SliceResult(slicing.column, label, task, result.samples / total, result)
                for label, results in zip(slicing.labels, by_slice, strict=True)
                for task, result, total in zip(self._tasks, results, totals, strict=True)
                if result.samples
            ]
        return found


def _metrics(weighted: bool) -> BinaryMetrics:
    sizes = {"buffer_samples": _BUFFER_SAMPLES, "histogram_cells": CELLS}
    return BinaryMetrics(torch.device("cpu"), **sizes, weighted=weighted)


def _summed(metrics: BinaryMetrics, collectives: Collectives) -> BinaryResult:
    metrics.all_reduce(collectives)
    return metrics.compute()
