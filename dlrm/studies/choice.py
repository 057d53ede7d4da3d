"""Which trial of an arm is chosen: by the mean of its validation figures over the selection seeds, and by nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from dlrm.config.metrics import is_better


@dataclass
class Trial:
    """A configuration that is tried.

    Attributes:
        number: from 0, in its arm; point: its parameters as people read them; settings: the options that they set.
        values: validation figure by seed; failures: reason by seed.
        settled: whether nothing more will be learned of it in this start.
    """

    number: int
    point: Mapping[str, Any]
    settings: Mapping[str, Any]
    values: dict[int, float] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    settled: bool = False

    def value(self, seeds: Sequence[int]) -> float | None:
        """Mean over the seeds; None unless all of them have one."""
        return fmean(self.values[seed] for seed in seeds) if all(seed in self.values for seed in seeds) else None


def choose(trials: Sequence[Trial], seeds: Sequence[int], metric: str) -> Trial | None:
    """The best trial, of equal ones the first; None if none has a figure of every seed."""
    best: tuple[Trial, float] | None = None
    for trial in trials:
        value = trial.value(seeds)
        if value is not None and (best is None or is_better(metric, value, best[1])):
            best = trial, value
    return best[0] if best else None
