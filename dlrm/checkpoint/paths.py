"""From what a person writes on the command line to checkpoints."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dlrm.checkpoint.folder import newest_good
from dlrm.checkpoint.manifest import COMMITTED_NAME, MANIFEST_NAME
from dlrm.checkpoint.names import step_of
from dlrm.checkpoint.remote import located
from dlrm.checkpoint.storage import Storage, storage_errors
from dlrm.checkpoint.stored import Checkpoint, open_checkpoint
from dlrm.errors import CheckpointError
from dlrm.format import escaped
from dlrm.remote.paths import is_remote

CHECKPOINTS_NAME = "checkpoints"
"""In a run's folder: where its checkpoints are."""


def storage_of(path: str) -> tuple[Storage, str]:
    """Where a path or URL is, and the path there, without ``~`` and a slash at the end.

    Raises:
        CheckpointError: nowhere that this program can read.
    """
    storage, plain = located(path if is_remote(path) else os.path.expanduser(path))
    return storage, plain.rstrip("/") or "/"


def local_file(path: str) -> Path:
    """A file of this host, which is what large files are mapped from and written to.

    Raises:
        CheckpointError: it is on no file system.
    """
    if is_remote(path):
        raise CheckpointError(path, "is remote", hint="name a file of this host, and copy it")
    return Path(storage_of(path)[1])


@dataclass(frozen=True)
class Location:
    """A folder that is a checkpoint, or holds checkpoints.

    Attributes:
        path: without ``~`` and a slash at the end; storage: where that is.
        names: what it holds.
    """

    path: str
    storage: Storage
    names: tuple[str, ...]

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is, or was to become, a checkpoint."""
        return bool({COMMITTED_NAME, MANIFEST_NAME} & set(self.names)) or step_of(self.name) is not None

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]


def find_location(path: str) -> Location:
    """The folder that a person means: a checkpoint's, or the one of a run's checkpoints.

    Args:
        path: one of these, or the folder of a run.

    Raises:
        CheckpointError: there is no such folder.
    """
    storage, plain = storage_of(path)
    location = _listed(plain, storage)
    if not location.is_checkpoint and CHECKPOINTS_NAME in location.names:
        return _listed(f"{location.path}/{CHECKPOINTS_NAME}", location.storage)
    return location


def _listed(path: str, storage: Storage) -> Location:
    with storage_errors(path):
        try:
            return Location(path, storage, tuple(storage.names(path)))
        except FileNotFoundError:
            raise CheckpointError(path, "there is no such folder", hint="check the path") from None
        except NotADirectoryError:
            raise CheckpointError(path, "is a file", hint="name the folder of a run or a checkpoint") from None


def is_uncommitted(path: str, storage: Storage) -> bool:
    """Whether there is no committed checkpoint at a path; one whose mark is there is one, whatever its state.

    Raises:
        OSError: the storage cannot say.
    """
    try:
        return COMMITTED_NAME not in storage.names(path)
    except FileNotFoundError:
        return True


def is_removed(path: str, storage: Storage) -> bool:
    """Whether what looked damaged at a path is no committed checkpoint any more; False where the storage cannot say."""
    try:
        return is_uncommitted(path, storage)
    except OSError:
        return False


def open_one(path: str) -> tuple[Checkpoint, list[str]]:
    """The checkpoint that a person means, and why newer ones in the same folder were passed over.

    Args:
        path: a checkpoint; or the folder of a run or of its checkpoints, for the newest good one.

    Raises:
        CheckpointError: it is not committed, or damaged; there is none in the folder.
    """
    location = find_location(path)
    if location.is_checkpoint:
        return open_checkpoint(location.path, location.storage), []
    newest, skipped = newest_good(location.path, storage=location.storage)
    names = (
        _listed(location.path, location.storage).names if skipped else ()
    )  # a run that goes on removes old ones meanwhile
    reasons = [escaped(other.why, 500) for other in skipped if other.path.rpartition("/")[2] in names]
    if newest is None:
        why = f" ({reasons[0]})" if reasons else ""
        raise CheckpointError(location.path, f"holds no good checkpoint{why}", hint="name another folder")
    return newest, reasons
