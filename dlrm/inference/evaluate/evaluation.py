"""What an evaluation has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dlrm.inference.evaluate.sliced import SliceResult
from dlrm.metrics.tasks import Results

FORMAT, VERSION = "dlrm-evaluation", 1


@dataclass(frozen=True)
class Evaluation:
    """The figures of a checkpoint on the samples of a split; the same on every rank.

    Attributes:
        checkpoint: its path; step: of the training; averaged: whether averaged weights were scored.
        data: name of the samples; split: which of the data; samples: how many it has.
        results: by task; best: the best reachable ones, None where they are not known.
        slices: of each column, slice and task, in the order that was asked for.
        bad_values: that were let pass, by column.
        ranks, device: that scored.
    """

    checkpoint: str
    step: int
    averaged: bool
    data: str
    split: str
    samples: int
    results: Results
    best: Results | None
    slices: tuple[SliceResult, ...]
    bad_values: dict[str, int]
    ranks: int
    device: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "checkpoint": self.checkpoint,
            "step": self.step,
            "averaged": self.averaged,
            "data": self.data,
            "split": self.split,
            "samples": self.samples,
            "ranks": self.ranks,
            "device": self.device,
            "tasks": {task: result.to_dict() for task, result in self.results.items()},
            "best_reachable": None
            if self.best is None
            else {task: result.to_dict() for task, result in self.best.items()},
            "slices": [found.to_dict() for found in self.slices],
            "bad_values": self.bad_values,
        }
