"""What is in a checkpoint as words: escaped, shortened, and "?" where it is not what a trainer would have written."""

from __future__ import annotations

from typing import Any

from dlrm.checkpoint.delta.format import KEY
from dlrm.checkpoint.stored import Checkpoint
from dlrm.format import escaped, local_time

UNKNOWN = "?"


def metadata_of(checkpoint: Checkpoint, *path: str) -> Any:
    """What the writer noted under ``path``, of whatever type; None if there is nothing."""
    found: Any = checkpoint.metadata
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def count(value: Any) -> str:
    """An integer with its thousands."""
    return escaped(f"{value:,}") if type(value) is int else UNKNOWN


def text(value: Any) -> str:
    """Text that somebody wrote."""
    return escaped(value) if isinstance(value, str) else UNKNOWN


def figure(value: Any) -> str:
    """A metric."""
    return f"{value:.6g}" if isinstance(value, float) else count(value)


def moment(value: Any) -> str:
    """Seconds since the epoch as local date and time."""
    if type(value) not in (int, float):
        return UNKNOWN
    try:
        return local_time(value)
    except (OverflowError, ValueError, OSError):  # beyond the calendar
        return UNKNOWN


def delta_of(checkpoint: Checkpoint) -> str:
    """What a checkpoint that is a delta builds on, in words; empty if it is a full one."""
    if checkpoint.metadata.get(KEY) is None:
        return ""
    return f"delta of step {count(metadata_of(checkpoint, KEY, 'parent', 'step'))}"


def metrics(checkpoint: Checkpoint) -> dict[str, float]:
    """The figures that were noted by name: those of the last validation first."""
    found = metadata_of(checkpoint, "metrics")
    history = found.get("validation") if isinstance(found, dict) else None
    last = history[-1] if isinstance(history, list) and history else None
    scores = last[-1] if isinstance(last, list) and last else None
    if isinstance(scores, dict) and scores and all(isinstance(of_task, dict) for of_task in scores.values()):
        scores = next(iter(scores.values()))  # of several tasks the first, which decides
    both = [group for group in (scores, found) if isinstance(group, dict)]
    return {name: value for group in both for name, value in group.items() if type(value) in (int, float)}


def best_metric(checkpoint: Checkpoint) -> str:
    """The metric by which the best checkpoint of a run is known, and its value then; empty if there is none."""
    metric, value = metadata_of(checkpoint, "best", "metric"), metadata_of(checkpoint, "best", "value")
    return f"{text(metric)} {figure(value)}" if metric is not None else ""
