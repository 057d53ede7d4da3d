"""A run's folder of checkpoints: which there are, which is the newest good one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dlrm.checkpoint.manifest import COMMITTED_NAME
from dlrm.checkpoint.names import aside_path, step_of
from dlrm.checkpoint.reader import Reader, find_all_damage, open_reader
from dlrm.checkpoint.remote import located
from dlrm.checkpoint.storage import Storage, UnreachableError, names_if_there, reading, storage_errors
from dlrm.checkpoint.stored import Checkpoint, UncommittedError, open_checkpoint
from dlrm.errors import CheckpointError


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that is not good, and why.

    Attributes:
        kind: *damaged*: it is not as it was written; *diverged*: it is, but training cannot go on from its numbers;
            *uncommitted*: it never became a checkpoint.
    """

    path: str
    why: str
    kind: Literal["damaged", "diverged", "uncommitted"] = "damaged"


def checkpoint_paths(folder: str | Path, storage: Storage | None = None) -> list[str]:
    """The folders with names of checkpoints, the newest first; whether they are good is not looked at.

    Raises:
        UnreachableError: the folder cannot be listed; one that is not there holds nothing.
    """
    storage, folder = located(folder, storage)
    with reading(folder):
        names = names_if_there(storage, folder)
    steps = [(step, name) for name in names if (step := step_of(name)) is not None]
    return [f"{folder}/{name}" for _, name in sorted(steps, reverse=True)]


def newest_good(
    folder: str | Path,
    *,
    storage: Storage | None = None,
    verify: bool = False,
    before: int | None = None,
    damaged: Collection[str] = (),
) -> tuple[Checkpoint | None, list[Skipped]]:
    """The newest committed checkpoint that can be trusted, and the newer ones that cannot.

    A delta can be trusted if all that it depends on can.

    Args:
        folder: of a run's checkpoints; need not exist.
        storage: where it is.
        before: look only at steps smaller than this.
        verify: read every byte, not only manifest and sizes; chunks are verified when they are loaded anyway.
        damaged: paths of checkpoints that are known not to be whole.

    Raises:
        UnreachableError: the folder, or one that might be the newest good one, cannot be read.
    """
    storage, folder = located(folder, storage)
    skipped: list[Skipped] = []
    opened: dict[str, Checkpoint] = {}
    for path in checkpoint_paths(folder, storage):
        if before is not None and (step_of(path) or 0) >= before:
            continue
        try:
            reader = open_good(path, storage, opened, damaged=damaged)
            if verify and (damage := find_all_damage(reader)):
                raise damage[0]
            return reader.checkpoint, skipped
        except UnreachableError:
            raise
        except CheckpointError as error:
            kind: Literal["damaged", "uncommitted"] = (
                "uncommitted" if isinstance(error, UncommittedError) else "damaged"
            )
            skipped.append(Skipped(path, str(error), kind))
    return None, skipped


def open_good(path: str, storage: Storage, opened: dict[str, Checkpoint], *, damaged: Collection[str] = ()) -> Reader:
    """Open a checkpoint under the name of its step, with all that it depends on; see :func:`open_reader`."""
    with reading(path):
        if not storage.is_folder(path):
            raise CheckpointError(path, "is no folder", hint="checkpoints are not looked for behind links")
    checkpoint = opened[path] = opened.get(path) or open_checkpoint(path, storage)
    if checkpoint.step != step_of(path):
        raise CheckpointError(path, f"is of step {checkpoint.step}", hint="rename it")
    return open_reader(checkpoint, damaged=damaged, opened=opened)


def set_aside(path: str, storage: Storage | None = None, *, why: Literal["damaged", "diverged"] = "damaged") -> str:
    """Rename a checkpoint that is of no use, so that its step can be saved anew; return where it is now.

    Storage that cannot rename at once copies it, without its mark; there one that has no mark stays, because it makes way
    by itself.

    Raises:
        CheckpointError: it cannot be renamed.
    """
    storage, path = located(path, storage)
    aside, mark = aside_path(path, why), f"{path}/{COMMITTED_NAME}"
    with storage_errors(path):
        if not storage.renames:
            if COMMITTED_NAME not in storage.names(path):
                return path
            storage.remove_file(mark)  # first, so that an interruption leaves what is not taken for a checkpoint
        storage.rename_folder(path, aside)
    return aside
