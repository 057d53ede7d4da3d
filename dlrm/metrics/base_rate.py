"""Telling that a run has become worse than no model at all, which is how training diverges without leaving finite numbers.

To predict the click rate for every sample has a normalised entropy of 1. A model is above that when training begins, and a
little above it by chance where few samples are of one class. Neither is told: warm-up does not count, the excess has to be
three times what chance gives (about one over the root of the rarer class's samples), and it has to be found twice in a row
without getting better, or at the end of training. It is told once.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from dlrm.metrics.binary import BinaryResult, coin_entropy

BLOCK_STEPS = 100
"""Steps of training that are judged together at least, and that are too early to be judged at the end."""
_RARER_SAMPLES = 100
_DEVIATIONS = 3.0
_LEAST_EXCESS = 0.01
_BETTER = 0.95  # of the entropy before: a run that is still on its way down
_MEND = (
    "lower the learning rates (optim.dense.lr, optim.sparse.lr), warm up longer (optim.schedule.warmup_steps) or set "
    "optim.clip_norm"
)


@dataclass(frozen=True)
class WorseThanBaseRate:
    """What was found: on the samples of which split, at which step, with which figures."""

    split: str
    step: int
    normalised_entropy: float
    click_rate: float

    def __str__(self) -> str:
        return (
            f"step {self.step}: normalised entropy {self.normalised_entropy:.3f} on the {self.split} samples, worse than "
            f"predicting their click rate {self.click_rate:.4f} for each: training has probably diverged; {_MEND}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)


@dataclass
class BaseRateWatch:
    """Judges what hooks measure; the same on every rank.

    Attributes:
        warmup_steps: of the learning rates; found: what was told, if it was.
    """

    warmup_steps: int = 0
    found: WorseThanBaseRate | None = None
    _block_start: int | None = None
    _block_3: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # losses, samples, positives
    _before: dict[str, float] = field(default_factory=dict)  # by split, the excessive entropy that was found last

    def trained(self, first_step: int, step: int, losses: float, samples: float, positives: float) -> str:
        """Take the sums over all samples of some steps; a line to tell, or nothing."""
        if first_step <= self.warmup_steps:
            return ""
        self._block_start = first_step if self._block_start is None else self._block_start
        self._block_3 = [a + b for a, b in zip(self._block_3, (losses, samples, positives), strict=True)]
        losses, samples, positives = self._block_3
        if step - self._block_start + 1 < BLOCK_STEPS or min(positives, samples - positives) < _RARER_SAMPLES:
            return ""
        self._block_start, self._block_3 = None, [0.0, 0.0, 0.0]
        entropy = losses / samples / coin_entropy(round(positives), round(samples))
        return self._judge("training", step, entropy, positives, samples, last=False)

    def evaluated(self, split: str, step: int, result: BinaryResult, *, last: bool) -> str:
        """Take an evaluation, the last of a split or one on the way; a line to tell, or nothing."""
        if result.normalised_entropy is None or step <= self.warmup_steps + (BLOCK_STEPS if last else 0):
            return ""
        return self._judge(split, step, result.normalised_entropy, result.positives, result.samples, last=last)

    def _judge(self, split: str, step: int, entropy: float, positives: float, samples: float, *, last: bool) -> str:
        rarer = min(positives, samples - positives)
        before = self._before.pop(split, None)
        if rarer < _RARER_SAMPLES or entropy <= 1 + max(_LEAST_EXCESS, _DEVIATIONS / math.sqrt(rarer)):
            return ""
        self._before[split] = entropy
        if self.found is not None or not (last or (before is not None and entropy > _BETTER * before)):
            return ""
        self.found = WorseThanBaseRate(split, step, entropy, positives / samples)
        return f"warning: {self.found}"
