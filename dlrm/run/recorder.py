"""Numbers over time: metrics.jsonl for programs, TensorBoard for people, and the same in memory for the curves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dlrm.run.secondary import Warn, reason, secondary, write_text
from dlrm.run.sinks.base import Background, numbers_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Recorder(Protocol):
    """Takes entries; ranks other than 0 have one that drops them."""

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Take an entry of a kind (``train``, ``validation``, ``test``) at a step."""

    def close(self) -> None:
        """Write what is outstanding."""


def import_tensorboard() -> Any:
    """TensorBoard's writer. Its import takes a while, as that of matplotlib does, and ranks other than 0 need neither."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter


class NoRecorder:
    """Drops everything."""

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Drop the entry."""

    def close(self) -> None:
        """Nothing is outstanding."""


class RunRecorder:
    """Writes entries into a run's folder as they come, and curves.png at the end.

    No file that cannot be written ends the training: metrics.jsonl is written anew as soon as it can be, TensorBoard's
    events end.

    Args:
        folder: the run's folder.
        tensorboard: whether to write TensorBoard events, too.
        step: where training goes on: what an earlier process recorded beyond it is forgotten.
        warn: told once of each file that cannot be written, and of records that cannot be read.
        sinks: get the numbers, too.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tensorboard: bool,
        step: int = 0,
        warn: Warn = lambda text: None,
        sinks: Sequence[Background] = (),
    ) -> None:
        self._sinks = sinks
        self._folder, self._warn = folder, warn
        self._path = folder / "metrics.jsonl"
        again = self._path.exists()
        self._entries: list[dict[str, Any]] = []
        self._behind = False  # whether the file lacks entries
        self._readable = True  # if not, its old lines are left alone
        try:
            self._entries = self._entries_until(step)
        except OSError as error:
            self._readable = False
            warn(f"warning: {self._path}: {reason(error)}; what was recorded before cannot be read, and stays as it is")
        self._write([])
        self._tensorboard: SummaryWriter | None = None
        if tensorboard:
            writer = import_tensorboard()
            with self._events():
                self._tensorboard = writer(str(folder / "tensorboard"), purge_step=step + 1 if again else None)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Write an entry; non-numbers go to metrics.jsonl only. A value ``task`` says of which of several tasks it is."""
        entry = {"kind": kind, "step": step, **values}
        self._entries.append(entry)
        self._write([entry])
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        tag = f"{kind}/{values['task']}" if "task" in values else kind
        for sink in self._sinks:
            sink.record(tag, step, numbers_of(values))
        with self._events():
            if self._tensorboard is not None:
                for name, value in numbers.items():
                    self._tensorboard.add_scalar(f"{tag}/{name}", value, step)

    def close(self) -> None:
        """Close the files and draw the curves."""
        for sink in self._sinks:
            sink.close()
        with self._events():
            if self._tensorboard is not None:
                self._tensorboard.close()
        if self._behind:
            self._write([])
        curves = self._folder / "curves.png"
        with secondary(curves, self._warn):
            from dlrm.run.curves import draw_curves

            draw_curves(self._entries).savefig(curves, dpi=110)

    def _write(self, new: list[dict[str, Any]]) -> None:
        """Append new entries, or write all where the file lacks some."""
        try:
            if self._readable and (self._behind or not new):
                write_text(self._path, _lines(self._entries))
            else:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(_lines(new))
            self._behind = False
        except OSError as error:
            if not self._behind:
                self._warn(f"warning: {self._path}: {reason(error)}; written as soon as it can be, the run goes on")
            self._behind = True

    @contextmanager
    def _events(self) -> Iterator[None]:
        """TensorBoard's writer, whose own thread is where errors come from, ends with the first one."""
        try:
            yield
        except OSError as error:
            self._warn(f"warning: {self._folder / 'tensorboard'}: {reason(error)}; no more events, the run goes on")
            self._tensorboard = None

    def _entries_until(self, step: int) -> list[dict[str, Any]]:
        """What was recorded up to a step; the scores of the end are made anew.

        The file is kept aside if lines of it are no records, but for the last one, which a kill may have cut.

        Raises:
            OSError: the file cannot be read.
        """
        if not step or not self._path.exists():
            return []
        *lines, last = self._path.read_bytes().split(b"\n")
        parsed = [parse_record(line) for line in lines]
        if None in parsed:
            number = parsed.index(None) + 1
            aside = _free_name(self._path.with_suffix(".jsonl.damaged"))
            with secondary(aside, self._warn):
                shutil.copyfile(self._path, aside)
                self._warn(
                    f"warning: {self._path}: {parsed.count(None)} line(s) are no records (line {number} is the first) and "
                    f"are left out; the file as it was is {aside.name}"
                )
        found = [entry for entry in (*parsed, parse_record(last)) if entry is not None]
        return [entry for entry in found if entry["step"] <= step and entry["kind"] != "test"]


def _lines(entries: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def parse_record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None if it is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(entry, dict) and type(entry.get("step")) is int and isinstance(entry.get("kind"), str)
    return entry if is_record else None


def _free_name(path: Path) -> Path:
    names = (path if number == 1 else path.with_name(f"{path.name}-{number}") for number in count(1))
    return next(name for name in names if not name.exists())
