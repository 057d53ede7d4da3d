"""A sign of life of each rank, and how it left: small files in the run's folder, by which ``status`` tells what goes on.

``heartbeat/rank3.json`` is replaced every few seconds by a thread of rank 3, whatever its main thread does. It holds the
*beat*: that the process lives; and its *progress*: what the main thread is doing (:mod:`dlrm.activity`), after how many
steps, and for how long nothing was got done. A rank that waits for another, or hangs in its reader, still beats, and says
where in the code it is. A reader on another host tells the age of a beat by the file's time and by its number, because
clocks differ; the seconds in it are differences on one clock.

``heartbeat/rank3.ends.jsonl`` gets a line when the rank ends other than by SIGKILL: an *end*. Rank 0 says so after success,
every rank after an error or a signal. Each file has one writer, because hosts cannot append to one file together.

Only the thread writes, so that neither training nor a rank that leaves waits for a file system that hangs. A file that
cannot be written is told of once, and stops nothing.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from dlrm import activity
from dlrm.checkpoint.owner import this_process
from dlrm.run.secondary import Warn, reason, write_text

FOLDER = "heartbeat"
FINISHED = "finished"
ENDED = "ended"
"""The kind of an end by a signal that lets a rank do nothing else."""
_LEAVING_PATIENCE_S = 3.0
_WINDOW_S = 300.0  # over which the pace is taken
_LONGEST_LINE = 2000
_FRAMES = 6
_LIBRARY, _PACKAGES = f"{os.path.dirname(os.__file__)}{os.sep}", f"{os.sep}site-packages{os.sep}"
_LOG = logging.getLogger(__name__)


def beat_name(rank: int) -> str:
    """The file with a rank's last beat, in the run's folder."""
    return f"{FOLDER}/rank{rank}.json"


def ends_name(rank: int) -> str:
    """The file with a rank's ends."""
    return f"{FOLDER}/rank{rank}.ends.jsonl"


@dataclass(frozen=True)
class Beating:
    """Whose heart it is.

    Attributes:
        folder: of the run; started_s: when rank 0 began this start of all ranks, by which it is known.
        rank, ranks: this one of how many; total_steps: of the run.
        every_s: seconds between beats.
    """

    folder: Path
    started_s: float
    rank: int
    ranks: int
    total_steps: int
    every_s: float


@dataclass
class _Pace:
    """Steps a second of wall clock time, evaluations and saves included, over the last minutes."""

    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def at(self, now_s: float, step: int) -> float | None:
        """Steps a second up to now, None while that is not known."""
        if self.seen and step < self.seen[-1][1]:
            self.seen.clear()
        self.seen.append((now_s, step))
        while len(self.seen) > 2 and self.seen[0][0] < now_s - _WINDOW_S:
            self.seen.popleft()
        first_s, first = self.seen[0]
        return (step - first) / (now_s - first_s) if step > first and now_s > first_s else None


class Heartbeat:
    """The thread that beats.

    Args:
        beating: whose heart it is.
        warn: told once if a file cannot be written.
    """

    def __init__(self, beating: Beating, warn: Warn) -> None:
        self._of, self._warn = beating, warn
        self._end: dict[str, Any] | None = None
        self._wake, self._ended = threading.Event(), threading.Event()
        self._number = 0
        self._told = False
        self._pace = _Pace()
        self._who: dict[str, Any] = {
            "start": beating.started_s,
            "rank": beating.rank,
            "ranks": beating.ranks,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        self._process = json.loads(this_process())
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def end(self, end: Mapping[str, Any]) -> None:
        """Beat for the last time, and say how this rank ends; what came first counts."""
        self._end = self._end or {"time": time.time(), "step": activity.now.step, **end}
        self._wake.set()
        self._ended.wait(_LEAVING_PATIENCE_S)

    def _beat(self) -> None:
        self._secondary(FOLDER, lambda path: path.mkdir(parents=True, exist_ok=True))  # hosts need not share the folder
        while self._end is None:
            self._write_beat()
            self._wake.wait(self._of.every_s)
        kind = self._end["kind"]
        if kind and (kind != FINISHED or not self._of.rank):
            line = json.dumps({**self._who, **self._end}) + "\n"
            self._secondary(ends_name(self._of.rank), lambda path: _append(path, line))
        self._write_beat()
        self._ended.set()

    def _write_beat(self) -> None:
        content = json.dumps(self._content()) + "\n"
        self._secondary(beat_name(self._of.rank), lambda path: write_text(path, content))

    def _content(self) -> dict[str, Any]:
        self._number += 1
        now_s, doing, step = time.monotonic(), activity.now.doing, activity.now.step
        still_s = max(0.0, now_s - activity.now.progress_s)
        return {
            **self._who,
            "process": self._process,
            "time": time.time(),
            "number": self._number,
            "every_s": self._of.every_s,
            "restarts_left": _restarts_left(),
            "doing": doing,
            "step": step,
            "total_steps": self._of.total_steps,
            "steps_per_s": self._pace.at(now_s, step),
            "still_s": round(still_s, 3),
            "where": _where() if still_s > 2 * self._of.every_s else [],
            "ended": None if self._end is None else self._end["kind"],
        }

    def _secondary(self, name: str, write: Callable[[Path], object]) -> None:
        path = self._of.folder / name
        try:
            write(path)
        except OSError as error:
            if not self._told:
                self._told = True
                _LOG.warning("%s could not be written", path, exc_info=True)
                self._warn(
                    f"warning: {path}: {reason(error)}; `status` may not know of rank {self._of.rank}, the run goes on"
                )


_current: Heartbeat | None = None


def begin(beating: Beating, warn: Warn) -> None:
    """From here on this process beats, until :func:`end` or its death."""
    global _current  # whoever leaves after an error has no heartbeat at hand, as with logging
    end("", "")
    _current = Heartbeat(beating, warn)


def end(kind: str, line: str, *, signal: str | None = None) -> None:
    """Say how this process ends, if it has begun to beat.

    Args:
        kind: :data:`FINISHED`, :data:`ENDED`, or that of :class:`~dlrm.command.failure.Verdict`.
        line: what a person reads of it.
        signal: its name, where one asked for the end.
    """
    global _current
    beating, _current = _current, None
    if beating is not None:
        beating.end({"kind": kind, "line": line[:_LONGEST_LINE], "signal": signal})


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line)


def _restarts_left() -> int | None:
    """How often the launcher may start the ranks again, None where none is known to."""
    try:
        return int(os.environ["TORCHELASTIC_MAX_RESTARTS"]) - int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    except (KeyError, ValueError):
        return None


def _where() -> list[str]:
    """The innermost functions that the main thread is in, the innermost first: ``dlrm/train/stepper.py:97 _progress``.

    Where it waits for data, those of a thread that reads them. Those of the standard library, which mostly wait for a lock,
    are left out.
    """
    frames = sys._current_frames()
    # This function's own frame holds the dict: a cycle, which would keep the activations of a step until it is collected.
    del frames[threading.get_ident()]
    readers = [thread for thread in threading.enumerate() if thread.name.startswith(activity.READER_THREADS)]
    threads = [*(readers if activity.now.doing == activity.READING else ()), threading.main_thread()]
    return next((place for thread in threads if (place := _place(frames.get(thread.ident or 0)))), [])


def _place(frame: FrameType | None) -> list[str]:
    found: list[str] = []
    while frame is not None and len(found) < _FRAMES:
        path = frame.f_code.co_filename
        if not path.startswith(_LIBRARY) or _PACKAGES in path:
            found.append(f"{'/'.join(Path(path).parts[-3:])}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return found
