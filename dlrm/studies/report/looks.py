"""Arms with their looks, the same in every figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlrm.scaling.report.looks import COLOURS, MARKERS
from dlrm.studies.outcome import ArmOutcome


@dataclass(frozen=True)
class Look:
    """Of an arm."""

    arm: ArmOutcome
    colour: str
    marker: str


def looks_of(arms: Sequence[ArmOutcome]) -> list[Look]:
    """Each arm with its looks."""
    return [
        Look(arm, COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]) for number, arm in enumerate(arms)
    ]


METRICS = {
    "auc": "AUC",
    "log_loss": "log loss",
    "normalised_entropy": "normalised entropy",
    "accuracy": "accuracy",
    "average_precision": "average precision",
    "calibration": "calibration",
}
"""As people call them."""
