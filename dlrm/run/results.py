"""Results of evaluations as people and programs read them. One task is named nowhere; several are, each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dlrm.format import escaped
from dlrm.metrics.binary import BinaryResult
from dlrm.metrics.tasks import Results, deciding
from dlrm.run.recorder import Recorder

NEXT_DAY = "next_day"
"""The kind of the records of days that were scored before they were trained on."""


def by_task(results: Results) -> Iterator[tuple[str, BinaryResult]]:
    """Each result with the name of its task; an empty name where there is one task."""
    return (("" if len(results) == 1 else task, result) for task, result in results.items())


def result_lines(results: Results) -> list[str]:
    """AUC, log loss and normalised entropy in a few words, a line a task."""
    return [f"{escaped(task)}: {_text(result)}" if task else _text(result) for task, result in by_task(results)]


def _text(result: BinaryResult) -> str:
    shown = {"AUC": result.auc, "log loss": result.log_loss, "NE": result.normalised_entropy}
    return "  ".join(f"{name} {'-' if value is None else format(value, '.5f')}" for name, value in shown.items())


def record_results(
    recorder: Recorder,
    kind: str,
    step: int,
    results: Results,
    best: Results | None = None,
    *,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Record an entry a task, with the best reachable AUC where it is known; ``about`` is said in each."""
    for task, result in by_task(results):
        named = {"task": task} if task else {}
        reachable = {} if best is None else {"best_reachable_auc": (best[task] if task else deciding(best)).auc}
        recorder.record(kind, step, {**about, **named, **result.to_dict(), **reachable})


def summary_of(*, validation: Results | None, test: Results | None, best: Results | None) -> dict[str, Any]:
    """The results' part of summary.json: those of the first task and, where there are several, of each by name."""
    summary = _of_task(*(None if results is None else deciding(results) for results in (validation, test, best)))
    tasks = next((list(results) for results in (validation, test) if results is not None), [])
    if len(tasks) > 1:
        summary["tasks"] = {
            task: _of_task(*(None if results is None else results[task] for results in (validation, test, best)))
            for task in tasks
        }
    return summary


def days_of(days: Sequence[tuple[int, str, Results]]) -> list[dict[str, Any]]:
    """What summary.json says of days that were scored before they were trained on; an entry a day and task."""
    return [
        {"day": day, "step": step, **({"task": task} if task else {}), **result.to_dict()}
        for step, day, results in days
        for task, result in by_task(results)
    ]


def _of_task(validation: BinaryResult | None, test: BinaryResult | None, best: BinaryResult | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "validation": validation.to_dict() if validation else None,
        "test": test.to_dict() if test else None,
    }
    if best is not None:
        found["best_reachable_auc"] = best.auc
        found["best_reachable_log_loss"] = best.log_loss
    return found


def table_rows(summary: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a table of a summary's results shows: a title, and figures by name."""
    for task, found in (summary.get("tasks") or {"": summary}).items():
        of_task = f" ({escaped(task)})" if task else ""
        for split in ("validation", "test"):
            if found[split] is not None:
                yield f"{split}{of_task}", found[split]
        if found.get("best_reachable_auc") is not None:
            reachable = {name: found[f"best_reachable_{name}"] for name in ("auc", "log_loss")}
            yield f"best reachable (test){of_task}", reachable
    for found in summary.get("days", ()):
        of_task = f", {escaped(found['task'])}" if "task" in found else ""
        yield f"{escaped(found['day'])}{of_task}, before it was trained on", found
