"""A run's folder of checkpoints: which there are, which is the newest good one, which may go."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dlrm.checkpoint.increments import Chain, open_chain
from dlrm.checkpoint.manifest import COMMITTED_NAME
from dlrm.checkpoint.names import OWNER_NAME, aside_path, is_discarded, is_working, step_of
from dlrm.checkpoint.owner import is_surely_dead
from dlrm.checkpoint.remote import located
from dlrm.checkpoint.save import discard, remove_if_possible, storage_errors
from dlrm.checkpoint.storage import Storage, UnreachableError, names_if_there, reading
from dlrm.checkpoint.stored import Checkpoint, UncommittedError, open_checkpoint
from dlrm.checkpoint.touched import find_chain_damage
from dlrm.errors import CheckpointError

ABANDONED_S = 24 * 3600.0
"""After so long without a change, an unfinished save is dead wherever it came from."""
_MAX_OWNER_BYTES = 1000


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

    An increment can be trusted if all that it stands on can.

    Args:
        folder: of a run's checkpoints; need not exist.
        storage: where it is.
        before: look only at steps smaller than this.
        verify: read every byte (:func:`find_chain_damage`), not only manifest and sizes; pieces are verified when loaded
            anyway.
        damaged: paths of checkpoints that are known not to be whole.

    Raises:
        UnreachableError: the folder, or one that might be the newest good one, cannot be read.
    """
    storage, folder = located(folder, storage)
    skipped: list[Skipped] = []
    opened: dict[str, Checkpoint] = {}
    for path in checkpoint_paths(folder, storage):
        if before is not None and (step_of(path.rpartition("/")[2]) or 0) >= before:
            continue
        try:
            return _good(path, storage, opened, verify=verify, damaged=damaged).tip, skipped
        except UnreachableError:
            raise
        except CheckpointError as error:
            kind: Literal["damaged", "uncommitted"] = (
                "uncommitted" if isinstance(error, UncommittedError) else "damaged"
            )
            skipped.append(Skipped(path, str(error), kind))
    return None, skipped


def _good(
    path: str,
    storage: Storage,
    opened: dict[str, Checkpoint],
    *,
    verify: bool = False,
    damaged: Collection[str] = (),
) -> Chain:
    with reading(path):
        if not storage.is_folder(path):
            raise CheckpointError(path, "is no folder", mend="checkpoints are not looked for behind links")
    checkpoint = opened[path] = opened.get(path) or open_checkpoint(path, storage)
    if checkpoint.step != step_of(path.rpartition("/")[2]):
        raise CheckpointError(path, f"is of step {checkpoint.step}", mend="rename it")
    chain = open_chain(checkpoint, damaged=damaged, opened=opened)
    if verify and (damage := find_chain_damage(chain)):
        raise damage[0]
    return chain


def set_aside(path: str, storage: Storage | None = None, *, why: Literal["damaged", "diverged"] = "damaged") -> str:
    """Rename a checkpoint that is of no use, so that its step can be saved anew; return where it is now.

    Storage that cannot rename at once copies it, without its mark; there one that has no mark stays, because it makes way
    by itself.

    Raises:
        CheckpointError: it cannot be renamed.
    """
    storage, path = located(path, storage)
    aside, mark = aside_path(path, why), f"{path}/{COMMITTED_NAME}"
    with storage_errors(path, mend=""):
        if not storage.renames:
            if COMMITTED_NAME not in storage.names(path):
                return path
            storage.remove_file(mark)  # first, so that an interruption leaves what is not taken for a checkpoint
        storage.rename_folder(path, aside)
    return aside


def prune(
    folder: str | Path,
    *,
    keep: int,
    protected: Collection[int] = (),
    damaged: Collection[str] = (),
    storage: Storage | None = None,
) -> list[str]:
    """Remove all but the newest good checkpoints, and what dead saves have left; return the checkpoints removed.

    Damaged checkpoints do not count, and are not touched. What a kept increment stands on is kept, too, and does not
    count for that. So that no single file is needed by all that is kept, the newest of another chain stays with them: one
    that stands on another full checkpoint, or is one. Wherever this is interrupted, what remains under the name of a
    checkpoint is whole, and so is what it stands on. For rank 0, while no other process prunes.

    Args:
        folder: of a run's checkpoints.
        keep: how many, at least 2, so that one is left when the newest turns out to be damaged.
        protected: steps to keep besides.
        damaged: paths of checkpoints that are known not to be whole.
        storage: where the folder is.

    Raises:
        CheckpointError: the storage fails, or one cannot be removed; all others that may go are gone then.
    """
    if keep < 2:
        raise ValueError(f"keep is {keep}, but the last good checkpoint needs one behind it")
    storage, folder = located(folder, storage)
    good, removed = 0, []
    refused: list[CheckpointError] = []
    needed: set[str] = set()
    bases: set[str] = set()
    opened: dict[str, Checkpoint] = {}
    for path in checkpoint_paths(folder, storage):  # the newest first, so that nothing goes before what stands on it
        try:
            chain = _good(path, storage, opened, damaged=damaged)
        except UnreachableError:
            raise
        except CheckpointError:
            continue  # somebody may still want to see what is left of it
        good += 1
        in_another_chain = len(bases) == 1 and chain.base.path not in bases
        stays = good <= keep or in_another_chain or chain.tip.step in protected or path in needed
        if not stays:
            try:
                with storage_errors(path, mend=""):
                    discard(storage, path)
            except CheckpointError as error:
                refused.append(error)
                stays = True
            else:
                removed.append(path)
        if stays:
            needed.update(member.path for member in chain.members)
            bases.add(chain.base.path)
    _clean(folder, storage)
    if refused:
        raise refused[0]
    return removed


def _clean(folder: str, storage: Storage) -> None:
    with storage_errors(folder, mend=""):
        for name in names_if_there(storage, folder):
            path = f"{folder}/{name}"
            if is_discarded(name) or (_is_unfinished(path, name, storage) and _is_abandoned(path, storage)):
                remove_if_possible(storage, path)


def _is_unfinished(path: str, name: str, storage: Storage) -> bool:
    if not storage.is_folder(path):
        return False
    return is_working(name) or (step_of(name) is not None and COMMITTED_NAME not in storage.names(path))


def _is_abandoned(path: str, storage: Storage) -> bool:
    """Whether nobody will finish a save: its rank 0 is dead, or nothing has happened for a day."""
    if OWNER_NAME in storage.names(path) and is_surely_dead(storage.read(f"{path}/{OWNER_NAME}", 0, _MAX_OWNER_BYTES)):
        return True
    return storage.idle_s(path) > ABANDONED_S
