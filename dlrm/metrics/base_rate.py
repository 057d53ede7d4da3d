"""Telling that a run has become worse than no model at all, which is how training diverges without leaving finite numbers.

To predict the click rate for every sample has a normalised entropy of 1. A model is above that when training begins, and a
little above it by chance where few samples are of one class. Neither is told: warm-up does not count, the excess has to be
three times what chance gives (about one over the root of the rarer class's samples), and it has to be found twice in a row
without getting better, or at the end of training. It is told once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dlrm.format import escaped
from dlrm.metrics.binary import coin_entropy
from dlrm.metrics.tasks import Results

BLOCK_STEPS = 100
"""Steps of training that are judged together at least, and that are too early to be judged at the end."""
_RARER_SAMPLES = 100
_DEVIATIONS = 3.0
_LEAST_EXCESS = 0.01
_BETTER = 0.95  # of the entropy before: a run that is still on its way down
_HINT = (
    "lower the learning rates (optim.dense.lr, optim.sparse.lr), warm up longer (optim.schedule.warmup_steps) or set "
    "optim.clip_norm"
)


@dataclass(frozen=True)
class WorseThanBaseRate:
    """What was found: on the samples of which split, at which step, with which figures, of which of several tasks."""

    split: str
    step: int
    normalised_entropy: float
    click_rate: float
    task: str = ""

    def __str__(self) -> str:
        of_task = f" ({escaped(self.task)})" if self.task else ""
        return (
            f"step {self.step}: normalised entropy {self.normalised_entropy:.3f} on the {self.split} samples{of_task}, "
            f"worse than predicting their click rate {self.click_rate:.4f} for each: training has probably diverged; "
            f"{_HINT}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON; without a task where there is one."""
        return {name: value for name, value in asdict(self).items() if value != ""}


@dataclass
class _Block:
    """Losses, labels and positives of one task, summed from a step on."""

    first_step: int
    sums_3: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])


@dataclass
class BaseRateWatch:
    """Judges what hooks measure; the same on every rank.

    Attributes:
        tasks: names, an empty one for the only task; warmup_steps: of the learning rates; found: what was told, if it was.
    """

    warmup_steps: int = 0
    tasks: Sequence[str] = ("",)
    found: WorseThanBaseRate | None = None
    _blocks: dict[str, _Block] = field(default_factory=dict)  # by task
    _before: dict[tuple[str, str], float] = field(
        default_factory=dict
    )  # by split and task, the excess that was found last

    def trained(self, first_step: int, step: int, sums_3T: Sequence[Sequence[float]]) -> str:
        """Take each task's losses, labels and positives, summed over ranks and some steps; a line to tell, or nothing."""
        if first_step <= self.warmup_steps:
            return ""
        lines = []
        for task, *sums_3 in zip(self.tasks, *sums_3T, strict=True):
            block = self._blocks.setdefault(task, _Block(first_step))
            block.sums_3 = [a + b for a, b in zip(block.sums_3, sums_3, strict=True)]
            losses, labels, positives = block.sums_3
            if step - block.first_step + 1 < BLOCK_STEPS or min(positives, labels - positives) < _RARER_SAMPLES:
                continue
            del self._blocks[task]
            entropy = losses / labels / coin_entropy(positives, labels)
            lines.append(self._judge("training", task, step, entropy, positives, labels, last=False))
        return "".join(lines)  # at most one is not empty

    def evaluated(self, split: str, step: int, results: Results, *, last: bool) -> str:
        """Take an evaluation, the last of a split or one on the way; a line to tell, or nothing."""
        if step <= self.warmup_steps + (BLOCK_STEPS if last else 0):
            return ""
        return "".join(
            self._judge(split, task, step, found.normalised_entropy, found.counted_positives, found.samples, last=last)
            for task, found in zip(self.tasks, results.values(), strict=True)
            if found.normalised_entropy is not None
        )

    def _judge(
        self, split: str, task: str, step: int, entropy: float, positives: float, labels: float, *, last: bool
    ) -> str:
        rarer = min(positives, labels - positives)
        before = self._before.pop((split, task), None)
        if rarer < _RARER_SAMPLES or entropy <= 1 + max(_LEAST_EXCESS, _DEVIATIONS / math.sqrt(rarer)):
            return ""
        self._before[split, task] = entropy
        if self.found is not None or not (last or (before is not None and entropy > _BETTER * before)):
            return ""
        self.found = WorseThanBaseRate(split, step, entropy, positives / labels, task)
        return f"warning: {self.found}"
