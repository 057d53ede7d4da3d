"""What a job is to do, and what it leaves in its folder, by which a command that is started again knows what became of it.

In the folder, beside what the job itself writes: job.json, what became of it (:class:`Record`); output.txt, what it has
printed; error.json, why its launchers say that it failed, a file for each host; handle, the scheduler's name for it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from dlrm.format import escaped
from dlrm.run.secondary import write_json, write_text

_RECORD, _OUTPUT, _ERROR, _HANDLE = "job.json", "output.txt", "error.json", "handle"
_FORMAT = "dlrm-scale-job"
_LONGEST_REASON = 500

State = Literal["missing", "running", "done", "failed", "changed"]


@dataclass(frozen=True)
class Record:
    """What is known of the last job.

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


class JobSpec(ABC):
    """What a job is to do.

    Attributes:
        component: of ``components/dlrm.py``, which is the name of the command that runs, too.
    """

    component: ClassVar[str]

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Its own, an absolute path."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For people."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(hosts, ranks on each)."""

    @property
    @abstractmethod
    def config(self) -> Path:
        """The file that its job is given."""

    @property
    @abstractmethod
    def config_text(self) -> str:
        """What is in it."""

    @property
    @abstractmethod
    def words(self) -> tuple[str, ...]:
        """Further words of its command."""

    @property
    @abstractmethod
    def lacking(self) -> str:
        """What it has not left if it has no result, in words."""

    @property
    @abstractmethod
    def leftovers(self) -> tuple[str, ...]:
        """Patterns of files that could be taken for the next job's."""

    @abstractmethod
    def result(self) -> Mapping[str, Any] | None:
        """What it has found; None if it has found nothing, or something that is no result of such a job."""

    @abstractmethod
    def is_as_wanted(self) -> bool:
        """Whether what lies there is of the configuration that is wanted now."""

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

    def prepare(self) -> None:
        """Make its folder, with nothing in it of an earlier job that could be taken for the next one's.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for pattern in (_RECORD, _HANDLE, _OUTPUT, f"{_ERROR}*", "slurm-*", *self.leftovers):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        write_text(self.config, self.config_text)

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
            return self.config.read_text() == self.config_text
        return False

    def record(self) -> Record | None:
        """Of its last job; None if it never had one."""
        found = json_mapping(self.folder / _RECORD)
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
            message = json_mapping(path).get("message")
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


def json_mapping(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none, or it is no mapping."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
