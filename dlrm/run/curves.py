"""The curves of a run: loss, AUC and throughput over steps, as a picture."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display on training hosts

from matplotlib.figure import Figure

from dlrm.run.results import NEXT_DAY

_COLOURS = {"train": "C0", "validation": "C1", "test": "C2", NEXT_DAY: "C3"}  # the same in every figure
_STYLES = ("-", "--", "-.", ":")  # of tasks


def draw_curves(entries: list[dict[str, Any]]) -> Figure:
    """Loss, AUC and throughput over steps, side by side.

    Args:
        entries: as recorded; those without a figure's value are left out of it.
    """
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    loss, auc, speed = figure.subplots(1, 3)
    _line(loss, entries, "train", "loss", "training", marker="")
    _line(loss, entries, "validation", "log_loss", "validation")
    _line(loss, entries, "test", "log_loss", "test")
    _line(loss, entries, NEXT_DAY, "log_loss", "next day")
    loss.set(title="Log loss", xlabel="step")
    _line(auc, entries, "validation", "auc", "validation")
    _line(auc, entries, "test", "auc", "test")
    _line(auc, entries, NEXT_DAY, "auc", "next day")
    for entry in entries:
        if entry["kind"] == "test" and entry.get("best_reachable_auc") is not None:
            of_task = f", {entry['task']}" if "task" in entry else ""
            name = f"best reachable (test{of_task})"
            auc.axhline(entry["best_reachable_auc"], color="grey", linestyle=":", label=name)
    auc.set(title="AUC", xlabel="step")
    _line(speed, entries, "train", "samples_per_s", "training", marker="")
    speed.set(title="Samples/s", xlabel="step", ylim=(0, None))
    for axes in (loss, auc, speed):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    return figure


def _line(axes: Any, entries: list[dict[str, Any]], kind: str, name: str, label: str, marker: str = "o") -> None:
    of_kind = [entry for entry in entries if entry["kind"] == kind and _is_number(entry.get(name))]
    tasks = list(dict.fromkeys(entry.get("task") for entry in of_kind))
    for task, style in zip(tasks, cycle(_STYLES)):
        points = [(entry["step"], entry[name]) for entry in of_kind if entry.get("task") == task]
        called = label if task is None else f"{label}, {task}"
        axes.plot(*zip(*points, strict=True), style, marker=marker, markersize=4, label=called, color=_COLOURS[kind])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
