"""The intermediate files of a preprocessing job: what is done is what is there.

All of them are below ``<output>/preprocess.work``, which whoever interrupted the job finds again and which goes away at
its end:

    lock                     held by the job that writes the output
    own.json                 names of the files in the output that may be removed to make place; there until the end
    state.json               what the output is made from and with; there before any of the following
    raw/<file>/<chunk>       parsed rows of a chunk by bucket, of which the last ones, or all, may have been cut off
                             because their rows are all in parts
    raw/<file>/<chunk>.values
                             which values occur in its sparse columns; removed once all vocabularies are there
    raw/<file>/counts.json   what was counted in the chunks of a file; there once all of them were parsed
    parts/<part>.json        the part's entry in the manifest; there once its files are finished
"""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from dlrm import files
from dlrm.errors import DataError
from dlrm.files import UNFINISHED, alone, sync_folder, unfinished

Count = Annotated[int, Field(ge=0, lt=2**63)]
_WRITTEN = re.compile(
    r"(raw/[0-9]+/(counts\.json|[0-9]+(\.values)?)|parts/[^/]+\.json)" + f"({re.escape(UNFINISHED)})?", re.DOTALL
)


@dataclass(frozen=True)
class ChunkCounts:
    """What was counted in a chunk.

    Attributes:
        rows: parsed rows; skipped_rows: malformed rows that were left out.
        missing: empty fields by column, all of ``int_0`` .. and ``cat_0`` .., in file order.
    """

    rows: Count
    skipped_rows: Count
    missing: dict[str, Count]


@dataclass(frozen=True)
class WorkFolder:
    """Where the intermediate files of an output are."""

    output: Path

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.output / "preprocess.work"

    @property
    def state(self) -> Path:
        """What the output is made from and with."""
        return self.path / "state.json"

    @property
    def own_names(self) -> Path:
        """Which files in the output are this program's, and may be removed."""
        return self.path / "own.json"

    def rows(self, file: int, chunk: int) -> Path:
        """The parsed rows of a chunk."""
        return self.path / "raw" / str(file) / str(chunk)

    def values(self, file: int, chunk: int) -> Path:
        """What occurs in the sparse columns of a chunk."""
        return self.path / "raw" / str(file) / f"{chunk}.values"

    def forget_values(self, file: int) -> None:
        """Remove what occurs in the chunks of a file."""
        for path in (self.path / "raw" / str(file)).glob("*.values"):
            path.unlink(missing_ok=True)

    def counts(self, file: int) -> Path:
        """What was counted in the chunks of a file."""
        return self.path / "raw" / str(file) / "counts.json"

    def record(self, part: str) -> Path:
        """A finished part's entry in the manifest."""
        return self.path / "parts" / f"{part}.json"

    def vocabulary(self, column: int) -> Path:
        """The raw values of a column that have ids of their own; part of the output."""
        return self.output / "vocabulary" / f"cat_{column}.npy"

    def vocabularies(self) -> list[Path]:
        """The vocabularies that are there, finished or not."""
        found = [path for end in ("", UNFINISHED) for path in (self.output / "vocabulary").glob(f"cat_[0-9]*.npy{end}")]
        return [path for path in found if path.name.removesuffix(UNFINISHED)[len("cat_") : -len(".npy")].isdigit()]

    def drop_vocabulary_folder(self) -> None:
        """Remove the folder of vocabularies if nothing is in it."""
        with suppress(OSError):  # it is not there, or something is in it
            (self.output / "vocabulary").rmdir()

    def remove(self) -> None:
        """Remove what a job has left, and the folder if nothing else is in it; whoever holds the lock still does."""
        self.clear()
        for path in (self.own_names, unfinished(self.own_names), self.path / "lock"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # somebody who waits for the lock has just made a new one
            self.path.rmdir()

    def clear(self) -> None:
        """Remove what a job has left, the state first: without it nobody goes on with the rest.

        What has a name that no job gives stays.

        Raises:
            DataError: a folder of it is a link, and what is in it may be somebody else's.
        """
        folders = [self.path / name for name in ("raw", "parts")]
        for path in (*folders, *(path for folder in folders if folder.exists() for path in folder.iterdir())):
            if path.is_symlink():
                raise DataError(str(path), "is a link, which is not followed", hint="remove it")
        for name in ("state.json", "token"):
            for path in (self.path / name, unfinished(self.path / name)):
                path.unlink(missing_ok=True)
        for folder in folders:
            self._remove_written(folder)

    def _remove_written(self, folder: Path) -> None:
        """Remove what jobs have written into a folder of theirs, and the folder if nothing else is in it."""
        for path, _, names in os.walk(folder, topdown=False):
            for name in names:
                file = Path(path, name)
                if _WRITTEN.fullmatch(file.relative_to(self.path).as_posix()):
                    file.unlink()
            with suppress(OSError):  # something else is in it
                os.rmdir(path)


def write_json(path: Path, value: Any) -> None:
    """Write a small file, whole or not at all; its folder is made if necessary."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        sync_folder(path.parent.parent)
    files.write_json(path, value)


def read_json(path: Path, kind: Any) -> Any:
    """Read what :func:`write_json` has written.

    Args:
        path: of the file.
        kind: the type of what it holds, which is checked strictly; returned are values of that type.

    Raises:
        DataError: the file is absent or damaged.
    """
    try:
        return _reader(kind).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        problem = "no such file"
    except ValueError:  # pydantic's is one
        problem = "is damaged"
    raise DataError(str(path), problem, hint="start over (overwrite=true, or remove the output)")


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def locked(work: WorkFolder) -> AbstractContextManager[None]:
    """Be the only job that writes the output.

    Raises:
        DataError: on entering, there is another one.
    """
    hint = "wait for it to end, or choose another output"
    taken = DataError(str(work.output), "another job is writing this data set", hint=hint)
    return alone(work.path / "lock", patience_s=0, taken=taken)
