"""What a repeat of a point leaves in its folder, and what can be told from it when scale is started again.

- points/<point>/config.yaml: what its jobs are given.
- points/<point>/repeat_0/: the output of ``benchmark``, with benchmark.json and the configuration that it is of;
  job.json, what became of the job (:class:`Record`); output.txt, what it has printed; error.json, why its launchers say
  that it failed, a file for each host; handle, the scheduler's name for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dlrm.config import dump_config, load_options
from dlrm.config.benchmark import BenchmarkConfig
from dlrm.errors import ConfigError
from dlrm.format import escaped
from dlrm.run.secondary import write_json, write_text
from dlrm.scaling.benchmark.file_format import CONFIG_NAME, FORMAT, NAME, VERSION
from dlrm.scaling.experiments.matrix import Point

_RECORD, _OUTPUT, _ERROR, _HANDLE = "job.json", "output.txt", "error.json", "handle"
_FORMAT = "dlrm-scale-job"
_LONGEST_REASON = 500

State = Literal["missing", "running", "done", "failed", "changed"]


@dataclass(frozen=True)
class Record:
    """What is known of the last job of a repeat.

    Attributes:
        state: running, done or failed.
        scheduler: where it was started; process: id of the process here that looks after it.
        reason: of a failure, in a line; final: whether another try would fail as well.
        duration_s: of the job, or so long as it was waited for.
    """

    state: str
    scheduler: str
    process: int = 0
    reason: str = ""
    final: bool = False
    duration_s: float = 0.0


@dataclass(frozen=True)
class Repeat:
    """A repeat of a point.

    Attributes:
        point: which; number: of the repeat, from 0; folder: its own, an absolute path.
    """

    point: Point
    number: int
    folder: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.point.name}, repeat {self.number}"

    @property
    def output(self) -> Path:
        """The file that gets what the job prints."""
        return self.folder / _OUTPUT

    @property
    def error(self) -> Path:
        """Where its launcher leaves why it failed; those of several hosts add a dot and their names."""
        return self.folder / _ERROR

    @property
    def handle(self) -> Path:
        """The file that gets the scheduler's name for the job as soon as it has one."""
        return self.folder / _HANDLE

    @property
    def config(self) -> Path:
        """What its job is given."""
        return self.folder.parent / "config.yaml"

    def prepare(self) -> None:
        """Make its folder, with nothing in it of an earlier job that could be taken for the next one's.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for pattern in (NAME, _RECORD, _HANDLE, _OUTPUT, f"{_ERROR}*", "log/rank*.log", "slurm-*"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        write_text(self.config, dump_config(self.point.config))

    def forget(self) -> None:
        """Its job was stopped, and counts neither as done nor as failed.

        Raises:
            OSError: it cannot be written.
        """
        for path in (self.folder / _RECORD, self.handle):
            path.unlink(missing_ok=True)

    def was_given_the_same(self) -> bool:
        """Whether its last job was given the configuration that is wanted now."""
        with suppress(OSError):
            return self.config.read_text() == dump_config(self.point.config)
        return False

    def result(self) -> dict[str, Any] | None:
        """The contents of its benchmark.json; None if it has none, or one of another version, or of other ranks."""
        found = _json(self.folder / NAME)
        if (found.get("format"), found.get("version")) != (FORMAT, VERSION):
            return None
        shape = (found.get("hosts"), found.get("ranks"))
        return found if shape == (self.point.hosts, self.point.ranks) else None

    def is_as_wanted(self) -> bool:
        """Whether what lies there is of the configuration that is wanted now."""
        try:
            found = load_options(BenchmarkConfig, self.folder / CONFIG_NAME)
        except ConfigError:  # of another version, or none
            return False
        return found.model_copy(update={"output": ""}) == self.point.config.model_copy(update={"output": ""})

    def record(self) -> Record | None:
        """Of its last job; None if it never had one."""
        found = _json(self.folder / _RECORD)
        if found.pop("format", None) != _FORMAT:
            return None
        with suppress(TypeError):  # of another version
            return Record(**found)
        return None

    def write(self, record: Record) -> None:
        """Keep what is known.

        Raises:
            OSError: it cannot be written.
        """
        write_json(self.folder / _RECORD, {"format": _FORMAT, **asdict(record)})

    def state(self) -> State:
        """What to think of it before anything is started.

        "changed" is a result of another configuration; "running" a job of which nobody has seen the end.
        """
        record = self.record()
        if self.result() is not None and (record is None or record.state != "failed"):
            return "done" if self.is_as_wanted() else "changed"
        return "missing" if record is None or record.state not in ("running", "failed") else record.state  # type: ignore[return-value]

    def told(self) -> tuple[str, int] | None:
        """Why its launchers say that the job failed, in a line, and their exit code; None if they say nothing."""
        for path in sorted(self._errors(), key=lambda path: path.stat().st_mtime):
            message = _json(path).get("message")
            if isinstance(message, dict) and isinstance(message.get("message"), str):
                return one_line(message["message"]), int(message.get("errorCode", 1))
        return None

    def last_printed(self) -> str:
        """The last line that its job has printed: on standard error of a host in Slurm, or here; empty if there is none."""
        for path in (*sorted(self.folder.glob("slurm-*.err")), self.output):
            with suppress(OSError):
                lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
                if lines:
                    return one_line(lines[-1])
        return ""

    def _errors(self) -> Iterator[Path]:
        yield from self.folder.glob(f"{_ERROR}*")


def one_line(text: str) -> str:
    """Text of several lines as one, not too long."""
    return escaped("; ".join(line.strip() for line in text.splitlines() if line.strip()), _LONGEST_REASON)


def repeats_of(points: list[Point], count: int, output: Path) -> list[Repeat]:
    """All repeats in the order in which they are run: one of each point, then the next of each.

    So what changes on the machine meanwhile falls on all points alike.
    """
    folder = Path(os.path.abspath(output)) / "points"
    return [
        Repeat(point, number, folder / point.name / f"repeat_{number}") for number in range(count) for point in points
    ]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
