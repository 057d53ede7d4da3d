"""What lies in a run's folder, as far as it can be read: nothing here fails of a file that is damaged or half written."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dlrm.checkpoint.names import COMMITTED_NAME, step_of
from dlrm.format import printable
from dlrm.run.files import STARTS
from dlrm.run.heartbeat import FOLDER

_BEAT = re.compile(r"rank([0-9]{1,9})\.json")
_ENDS = re.compile(r"rank([0-9]{1,9})\.ends\.jsonl")
_BLOCK_BYTES = 2**16
_MOST_BYTES = 2**24  # of metrics.jsonl, that are looked through from its end


@dataclass(frozen=True)
class Entry:
    """A JSON object of which nothing is known."""

    values: dict[str, Any]

    @classmethod
    def of(cls, text: bytes) -> Entry:
        """The object in a text, an empty one if there is none."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        return cls(values if isinstance(values, dict) else {})

    def number(self, key: str) -> float | None:
        """A finite number."""
        value = self.values.get(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
        return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]

    def whole(self, key: str) -> int | None:
        """A whole number that is not negative."""
        value = self.values.get(key)
        return value if type(value) is int and 0 <= value < 2**63 else None

    def text(self, key: str) -> str | None:
        """Text that is not empty, fit for a terminal."""
        value = self.values.get(key)
        return printable(value, keep="\n") if isinstance(value, str) and value else None

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self.values.get(key)
        return tuple(printable(item) for item in value if isinstance(item, str)) if isinstance(value, list) else ()


@dataclass(frozen=True)
class Start:
    """A start of all ranks, as rank 0 has written it.

    Attributes:
        time_s: when, on its host's clock; host, pid: of rank 0; ranks: how many.
        launchers: marks of those that started them; job: the scheduler's id; cause: why ranks were started again.
        beats: whether its ranks leave signs of life, as those of earlier versions do not.
    """

    time_s: float
    host: str = "?"
    pid: int | None = None
    ranks: int | None = None
    launchers: frozenset[str] = frozenset()
    job: str | None = None
    cause: str | None = None
    beats: bool = True


@dataclass(frozen=True)
class Beat:
    """A rank's last sign of life (:mod:`dlrm.run.heartbeat`).

    Attributes:
        start_s: of the start it belongs to; written_s: the file's time.
        process: by which it is known on its own host.
        ended: how, if it was the last; the others as in the file.
    """

    start_s: float
    rank: int
    host: str
    pid: int
    number: int
    written_s: float
    every_s: float = 5.0
    process: Any = None
    restarts_left: int | None = None
    doing: str = ""
    step: int = 0
    total_steps: int | None = None
    steps_per_s: float | None = None
    still_s: float = 0.0
    where: tuple[str, ...] = ()
    ended: str | None = None


@dataclass(frozen=True)
class End:
    """How a rank has left a start.

    Attributes:
        kind: *finished*, *ended* (by a signal, at once), or one of :class:`~dlrm.command.failure.Verdict`.
        signal: the name of the one that asked for it.
    """

    start_s: float
    time_s: float
    rank: int
    host: str
    pid: int | None
    kind: str
    line: str
    signal: str | None = None
    step: int | None = None


@dataclass(frozen=True)
class Saved:
    """The newest committed checkpoint, None as step if there is none.

    Attributes:
        folder: of all checkpoints; count: of the committed ones, None where they are out of reach; written_s: when.
    """

    folder: str
    count: int | None
    step: int | None = None
    written_s: float | None = None


@dataclass(frozen=True)
class Contents:
    """All of it.

    Attributes:
        starts: in the order in which they were written; beats: by rank; ends: in no order.
        metrics: the last entry of each kind (train, validation, test).
        begun_s: time of the list of starts, changed_s: of what was written last, summarised_s: of summary.json; all three
            by the clock of the file system.
        stopped: why training ended, as the summary has it.
    """

    folder: Path
    starts: tuple[Start, ...] = ()
    beats: dict[int, Beat] = field(default_factory=dict)
    ends: tuple[End, ...] = ()
    metrics: dict[str, Entry] = field(default_factory=dict)
    saved: Saved | None = None
    begun_s: float | None = None
    changed_s: float | None = None
    summarised_s: float | None = None
    stopped: str | None = None


def read(folder: Path) -> Contents:
    """Read a run's folder."""
    beats, ends = _heartbeats(folder)
    times = [_time(folder / name) for name in (STARTS, "metrics.jsonl", "log/rank0.log", "config.yaml")]
    summary = folder / "summary.json"
    return Contents(
        folder,
        starts=tuple(_starts(folder / STARTS)),
        beats=beats,
        ends=ends,
        metrics=_last_metrics(folder / "metrics.jsonl"),
        saved=_saved(folder),
        begun_s=times[0],
        changed_s=max((time for time in times if time is not None), default=None),
        summarised_s=_time(summary),
        stopped=Entry.of(_bytes(summary)).text("stopped"),
    )


def _starts(path: Path) -> Iterator[Start]:
    for line in _bytes(path).splitlines():
        entry = Entry.of(line)
        if (time_s := entry.number("time")) is not None:
            yield Start(
                time_s,
                entry.text("host") or "?",
                entry.whole("pid"),
                entry.whole("ranks"),
                frozenset(entry.texts("launchers")),
                _job(entry.values.get("job")),
                entry.text("cause"),
                "cause" in entry.values,
            )


def _job(job: Any) -> str | None:
    return Entry(job).text("id") if isinstance(job, dict) else None


def _heartbeats(folder: Path) -> tuple[dict[int, Beat], tuple[End, ...]]:
    beats: dict[int, Beat] = {}
    ends: list[End] = []
    for name in _names(folder / FOLDER):
        path = folder / FOLDER / name
        if (match := _BEAT.fullmatch(name)) and (beat := _beat(path, int(match[1]))):
            beats[beat.rank] = beat
        elif match := _ENDS.fullmatch(name):
            ends += _ends(path, int(match[1]))
    return dict(sorted(beats.items())), tuple(ends)


def _beat(path: Path, rank: int) -> Beat | None:
    try:
        with path.open("rb") as file:  # opened before its time is asked for, so that a network file system looks anew
            written_s, entry = os.fstat(file.fileno()).st_mtime, Entry.of(file.read(_BLOCK_BYTES))
    except OSError:
        return None
    start_s, pid, number = entry.number("start"), entry.whole("pid"), entry.whole("number")
    if start_s is None or pid is None or number is None or entry.whole("rank") != rank:
        return None
    return Beat(
        start_s,
        rank,
        entry.text("host") or "?",
        pid,
        number,
        written_s,
        every_s=max(0.01, entry.number("every_s") or 5.0),
        process=entry.values.get("process"),
        restarts_left=entry.whole("restarts_left"),
        doing=entry.text("doing") or "",
        step=entry.whole("step") or 0,
        total_steps=entry.whole("total_steps"),
        steps_per_s=entry.number("steps_per_s"),
        still_s=max(0.0, entry.number("still_s") or 0.0),
        where=entry.texts("where"),
        ended=entry.text("ended"),
    )


def _ends(path: Path, rank: int) -> Iterator[End]:
    for line in _bytes(path).splitlines():
        entry = Entry.of(line)
        start_s, time_s, kind = entry.number("start"), entry.number("time"), entry.text("kind")
        if start_s is None or time_s is None or kind is None:
            continue
        host, pid, told = entry.text("host") or "?", entry.whole("pid"), entry.text("line") or ""
        yield End(start_s, time_s, rank, host, pid, kind, told, entry.text("signal"), entry.whole("step"))


def _last_metrics(path: Path) -> dict[str, Entry]:
    """The last entry of each kind, of the first task where there are several; the last line may be half written."""
    found: dict[str, Entry] = {}
    step: dict[str, float | None] = {}
    for line in _lines_backwards(path):
        entry = Entry.of(line)
        kind = entry.text("kind")
        if kind is None or entry.whole("step") is None:
            continue
        if kind == "train" and entry.number("samples_per_s") is None:  # of one of several tasks
            continue
        # Entries of several tasks follow each other in the order of the tasks.
        if kind not in found or (kind != "train" and entry.whole("step") == step[kind]):
            found[kind], step[kind] = entry, entry.whole("step")
        elif {"train", "validation"} <= found.keys():
            break
    return found


def _lines_backwards(path: Path) -> Iterator[bytes]:
    """The lines of a file from its end, of as much of it as is worth reading."""
    try:
        with path.open("rb") as file:
            at = file.seek(0, os.SEEK_END)
            first = max(0, at - _MOST_BYTES)
            rest = b""
            while at > first:
                size = min(_BLOCK_BYTES, at - first)
                at = file.seek(at - size)
                rest, *lines = (file.read(size) + rest).split(b"\n")
                yield from reversed(lines)
            yield rest
    except OSError:
        return


def _saved(folder: Path) -> Saved | None:
    """The checkpoints of the run, in its folder or where its configuration puts them."""
    place, path = f"{folder}/checkpoints", folder / "checkpoints"
    if elsewhere := _checkpoint_dir(folder):
        from dlrm.remote.paths import SchemeError, is_remote, local_path  # takes a moment

        place = f"{elsewhere.rstrip('/')}/{os.path.basename(os.path.abspath(folder))}"
        try:
            path = Path(local_path(place))
        except SchemeError:
            return Saved(place, None)
        if is_remote(place) or not path.is_dir():
            return Saved(place, None)
    steps = {step: name for name in _names(path) if (step := step_of(name)) is not None}
    times = {step: time for step, name in steps.items() if (time := _time(path / name / COMMITTED_NAME)) is not None}
    newest = max(times, default=None)
    return Saved(place, len(times), newest, None if newest is None else times[newest])


def _checkpoint_dir(folder: Path) -> str | None:
    """The run's option checkpoint.dir."""
    try:
        config = yaml.safe_load(_bytes(folder / "config.yaml"))  # libyaml crashes on what is nested too deeply
        elsewhere = config["checkpoint"]["dir"]
    except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return elsewhere if isinstance(elsewhere, str) else None


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _time(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
