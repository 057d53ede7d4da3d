"""The work folder: what is done of an output is what is there.

All of it is below ``<output>.parts``, which the same command finds again after an interruption and removes at its end:

    lock                    held by the job that writes the output
    state.json              what the output is made from and with; there before any of the following
    token                   by which ranks see that the folder is the same one on all hosts
    stop.<token>            a rank has failed: the others of that start end, too; empty, since the disk may be full
    <input>.blocks          how many blocks an input has, where that is known at its end only
    <input>-<block>.arrow   a part: logits, labels and carried columns of a block
    finished.json           by what an output is known that is whole; there before the output has its name
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrm.errors import DataError
from dlrm.files import UNFINISHED, alone, seen, unfinished, written_beside

_WRITTEN = re.compile(
    r"stop\.[0-9a-f]*|[0-9]+(\.blocks|-[0-9]+\.arrow)(\.[0-9a-f]+\.[0-9]+" + re.escape(UNFINISHED) + ")?"
)
PART = ".arrow"


@dataclass(frozen=True)
class WorkFolder:
    """Where what is done of an output is.

    Attributes:
        output: the file that is being made.
        token: of this start, and rank: of this process; in the names of files that are not finished.
    """

    output: Path
    token: str = ""
    rank: int = 0

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.output.with_name(self.output.name + ".parts")

    @property
    def state(self) -> Path:
        """What the output is made from and with."""
        return self.path / "state.json"

    @property
    def finished(self) -> Path:
        """By which an output that is whole is known."""
        return self.path / "finished.json"

    def part(self, number: int, block: int) -> Path:
        """The results of a block of an input."""
        return self.path / f"{number:05d}-{block:08d}{PART}"

    def count(self, number: int) -> Path:
        """How many blocks an input has."""
        return self.path / f"{number:05d}.blocks"

    def blocks(self, number: int) -> int | None:
        """What :meth:`count` holds; None if it is not there yet."""
        try:
            return int(self.count(number).read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            raise self.damaged(self.count(number)) from None

    @property
    def has_parts(self) -> bool:
        """Whether anything is done."""
        return any(path.suffix == PART for path in self.path.iterdir())

    @contextmanager
    def writing(self, path: Path) -> Iterator[Any]:
        """A file of the folder that is there when it is whole; a rank that outlived its job does not write to the same."""
        with written_beside(path, beside=path.with_name(f"{path.name}.{self.token}.{self.rank}{UNFINISHED}")) as file:
            yield file

    def write_count(self, number: int, blocks: int) -> None:
        """Note how many blocks an input has."""
        with self.writing(self.count(number)) as file:
            file.write(str(blocks).encode())

    def stop(self) -> None:
        """Have the other ranks end soon: this one has failed."""
        with suppress(OSError):
            self._stop.touch()

    @property
    def is_stopped(self) -> bool:
        """Whether a rank has failed since this start."""
        return self._stop.exists()

    @property
    def _stop(self) -> Path:
        return self.path / f"stop.{self.token}"

    def see_token(self) -> None:
        """Make sure that the folder is the same one on every rank.

        Raises:
            DataError: it is not.
        """
        path = self.path / "token"
        if not seen(lambda: path.exists() and path.read_text() == self.token):
            problem = f"host {socket.gethostname()} does not see what rank 0 writes beside it"
            raise DataError(str(self.output), problem, hint="choose an output that all hosts share")

    def clear(self) -> None:
        """Remove what a job has left, the mark of a whole output last; what is not ours stays."""
        for path in sorted(self.path.iterdir()):
            if _WRITTEN.fullmatch(path.name):
                path.unlink()
        for name in ("token", "state.json", "finished.json"):
            for path in (self.path / name, unfinished(self.path / name)):
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove what a job has left, and the folder if nothing else is in it; whoever holds the lock still does."""
        self.clear()
        (self.path / "lock").unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            self.path.rmdir()

    def damaged(self, path: Path) -> DataError:
        """The error of a file of the folder that is not as it was written."""
        return DataError(str(path), "is damaged", hint=f"remove {self.path} to start over")


def locked(work: WorkFolder) -> AbstractContextManager[None]:
    """Be the only job that writes the output.

    Raises:
        DataError: on entering, there is another one.
    """
    hint = "wait for it to end, or choose another output"
    taken = DataError(str(work.output), "another process is writing it", hint=hint)
    return alone(work.path / "lock", patience_s=0, taken=taken)


def read_json(path: Path) -> Any:
    """What :func:`~dlrm.files.write_json` has written; None if there is no such file, or if it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def identity(file: Path | int) -> list[int]:
    """By which a file, or what is open, is known again; another name changes nothing."""
    found = os.stat(file)
    return [found.st_ino, found.st_size, found.st_mtime_ns]
