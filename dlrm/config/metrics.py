"""Which way is better, for every metric by which checkpoints, runs and trials are compared."""

from __future__ import annotations

SMALLER_IS_BETTER = ("log_loss", "normalised_entropy")


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether a value of a metric is better than another."""
    return value < than if metric in SMALLER_IS_BETTER else value > than
