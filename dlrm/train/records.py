"""Numbers over time: metrics.jsonl for programs, TensorBoard for people, and the same in memory for the curves."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import matplotlib as mpl

mpl.use("Agg")  # no display on training hosts

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_COLOURS = {"train": "C0", "validation": "C1", "test": "C2"}  # the same in every figure


class Recorder(Protocol):
    """Takes entries; ranks other than 0 have one that drops them."""

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Take an entry of a kind (``train``, ``validation``, ``test``) at a step."""

    def close(self) -> None:
        """Write what is outstanding."""


class NoRecorder:
    """Drops everything."""

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Drop the entry."""

    def close(self) -> None:
        """Nothing is outstanding."""


class RunRecorder:
    """Writes entries into a run's folder as they come, and curves.png at the end.

    Args:
        folder: the run's folder.
        tensorboard: whether to write TensorBoard events, too.
        step: where training goes on: what an earlier process recorded beyond it is forgotten.
        warn: told once when the disk is full, which does not end the training: metrics.jsonl is written anew when there is
            room again, TensorBoard's events end.
    """

    def __init__(
        self, folder: Path, *, tensorboard: bool, step: int = 0, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        self._folder, self._warn = folder, warn
        self._path = folder / "metrics.jsonl"
        again = self._path.exists()
        self._entries = _entries_until(self._path, step)
        self._behind = False  # whether the file lacks entries
        self._write_all()
        self._tensorboard: SummaryWriter | None = None
        if tensorboard:
            self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if again else None)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Write an entry; non-numbers go to metrics.jsonl only."""
        entry = {"kind": kind, "step": step, **values}
        self._entries.append(entry)
        try:
            if self._behind:
                self._write_all()
            else:
                self._append(entry)
        except OSError as error:
            self._full(error)
        if self._tensorboard is not None:
            try:
                for name, value in values.items():
                    if isinstance(value, int | float):
                        self._tensorboard.add_scalar(f"{kind}/{name}", value, step)
            except OSError as error:  # of the thread that writes, which has ended
                self._full(error)
                self._tensorboard = None

    def close(self) -> None:
        """Close the files and draw the curves."""
        if self._tensorboard is not None:
            try:
                self._tensorboard.close()
            except OSError as error:
                self._full(error)
        if self._behind:
            self._write_all()
        draw_curves(self._entries).savefig(self._folder / "curves.png", dpi=110)

    def _append(self, entry: dict[str, Any]) -> None:
        with self._path.open("a") as lines:
            lines.write(json.dumps(entry) + "\n")

    def _write_all(self) -> None:
        beside = self._path.with_suffix(".part")
        beside.write_text("".join(json.dumps(entry) + "\n" for entry in self._entries))
        beside.replace(self._path)
        self._behind = False

    def _full(self, error: OSError) -> None:
        if error.errno not in _FULL_DISK:
            raise error
        if not self._behind:
            self._warn(f"warning: {self._path}: {error.strerror}; written when there is room again")
        self._behind = True


def _entries_until(path: Path, step: int) -> list[dict[str, Any]]:
    """What was recorded up to a step; the scores of the end are made anew, and a line that was cut is left out."""
    entries: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if step and path.exists() else []:
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if entry["step"] <= step and entry["kind"] != "test":
                entries.append(entry)
    return entries


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
    loss.set(title="Log loss", xlabel="step")
    _line(auc, entries, "validation", "auc", "validation")
    _line(auc, entries, "test", "auc", "test")
    for entry in entries:
        if entry["kind"] == "test" and entry.get("best_reachable_auc") is not None:
            auc.axhline(entry["best_reachable_auc"], color="grey", linestyle=":", label="best reachable (test)")
    auc.set(title="AUC", xlabel="step")
    _line(speed, entries, "train", "samples_per_s", "training", marker="")
    speed.set(title="Samples/s", xlabel="step", ylim=(0, None))
    for axes in (loss, auc, speed):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    return figure


def _line(axes: Any, entries: list[dict[str, Any]], kind: str, name: str, label: str, marker: str = "o") -> None:
    points = [(e["step"], e[name]) for e in entries if e["kind"] == kind and e.get(name) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, label=label, color=_COLOURS[kind])
