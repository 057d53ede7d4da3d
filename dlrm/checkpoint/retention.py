"""Which checkpoints of a run stay, and what is removed of the others and of saves that have died."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from dlrm.checkpoint.folder import checkpoint_paths, open_good
from dlrm.checkpoint.manifest import COMMITTED_NAME
from dlrm.checkpoint.names import OWNER_NAME, is_discarded, is_working, step_of
from dlrm.checkpoint.owner import is_surely_dead
from dlrm.checkpoint.remote import located
from dlrm.checkpoint.save import discard, remove_if_possible
from dlrm.checkpoint.saver import SaveReport
from dlrm.checkpoint.storage import Storage, UnreachableError, names_if_there, storage_errors
from dlrm.checkpoint.stored import Checkpoint
from dlrm.errors import CheckpointError

ABANDONED_S = 24 * 3600.0
"""After so long without a change, an unfinished save is dead wherever it came from."""
_MAX_OWNER_BYTES = 1000


@dataclass
class RetentionPolicy:
    """Which checkpoints stay: the newest few and the best.

    :meth:`__call__` runs in the thread that writes, :attr:`reports` and :attr:`warnings` are emptied by training. That old
    checkpoints cannot be removed is no failure of the save: it is told once, and tried again after the next.
    """

    folder: str
    storage: Storage
    keep: int
    best_step: int | None = None
    damaged: Collection[str] = ()
    reports: list[SaveReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _refused: bool = False

    def __call__(self, report: SaveReport) -> None:
        """Remove what has become too old, now that a newer one is committed."""
        self.reports.append(report)
        protected = [] if self.best_step is None else [self.best_step]
        try:
            prune(self.folder, keep=self.keep, protected=protected, damaged=self.damaged, storage=self.storage)
        except CheckpointError as error:
            if not self._refused:
                self.warnings.append(f"an old checkpoint cannot be removed: {error}; tried again after every save")
            self._refused = True
        else:
            self._refused = False


def prune(
    folder: str | Path,
    *,
    keep: int,
    protected: Collection[int] = (),
    damaged: Collection[str] = (),
    storage: Storage | None = None,
) -> list[str]:
    """Remove all but the newest good checkpoints, and what dead saves have left; return the checkpoints removed.

    Damaged checkpoints do not count, and are not touched. What a kept delta depends on is kept, too, and does not count for
    that. So that no single file is needed by all that is kept, the newest that depends on another full checkpoint than the
    newest, or is one, stays with them. Wherever this is interrupted, what remains under the name of a checkpoint is whole,
    and so is what it depends on. For rank 0, while no other process prunes.

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
    full: set[str] = set()  # the full checkpoints that those that stay depend on, or are
    opened: dict[str, Checkpoint] = {}
    for path in checkpoint_paths(folder, storage):  # the newest first, so that nothing goes before what depends on it
        try:
            members = [member.path for member in open_good(path, storage, opened, damaged=damaged).members]
        except UnreachableError:
            raise
        except CheckpointError:
            continue  # somebody may still want to see what is left of it
        good += 1
        without_newest = len(full) == 1 and members[0] not in full
        stays = good <= keep or without_newest or opened[path].step in protected or path in needed
        if not stays:
            try:
                with storage_errors(path):
                    discard(storage, path)
            except CheckpointError as error:
                refused.append(error)
                stays = True
            else:
                removed.append(path)
        if stays:
            needed.update(members)
            full.add(members[0])
    _clean(folder, storage)
    if refused:
        raise refused[0]
    return removed


def _clean(folder: str, storage: Storage) -> None:
    with storage_errors(folder):
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
