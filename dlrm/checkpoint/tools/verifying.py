"""``checkpoint verify``: every byte of checkpoints is read.

The run may go on meanwhile: it commits checkpoints and removes old ones. So what looks damaged is looked at again, and what
is no committed checkpoint any more then was removed, which is no damage.
"""

from __future__ import annotations

from contextlib import suppress

from dlrm.checkpoint.folder import checkpoint_paths
from dlrm.checkpoint.paths import find_location, is_removed, is_uncommitted
from dlrm.checkpoint.reader import open_reader
from dlrm.checkpoint.storage import Storage, storage_errors
from dlrm.checkpoint.stored import Checkpoint, open_checkpoint
from dlrm.errors import CheckpointError


def committed(path: str) -> list[Checkpoint | CheckpointError]:
    """What a path on the command line stands for: each committed checkpoint, or what is wrong with it.

    Args:
        path: a checkpoint, which has to be committed; or the folder of a run or of its checkpoints, where what is not
            committed is no damage: an interrupted save leaves it, and nothing takes it for a checkpoint.

    Raises:
        CheckpointError: the folder cannot be listed, or holds no checkpoint.
    """
    location = find_location(path)
    if location.is_checkpoint:
        return [_opened(location.path, location.storage)]
    found: list[Checkpoint | CheckpointError] = []
    for checkpoint_path in checkpoint_paths(location.path, location.storage):
        try:
            with storage_errors(checkpoint_path):
                left_behind = is_uncommitted(checkpoint_path, location.storage)
        except CheckpointError as error:
            found.append(error)
            continue
        if not left_behind:
            opened = _opened(checkpoint_path, location.storage)
            if isinstance(opened, Checkpoint) or not is_removed(checkpoint_path, location.storage):
                found.append(opened)
    if not found:
        raise CheckpointError(location.path, "holds no committed checkpoint", hint="name another folder")
    return found


def _opened(path: str, storage: Storage) -> Checkpoint | CheckpointError:
    """A checkpoint, or what is wrong with it at a second look, too: at the first it may just have been committed."""
    with suppress(CheckpointError):
        return open_checkpoint(path, storage)
    try:
        return open_checkpoint(path, storage)
    except CheckpointError as error:
        return error


def with_dependencies(found: list[Checkpoint | CheckpointError]) -> list[Checkpoint | CheckpointError]:
    """The same, once each, and what deltas among them depend on, or what is wrong with that."""
    by_path: dict[str, Checkpoint] = {}
    errors = [error for error in found if isinstance(error, CheckpointError)]
    for checkpoint in found:
        if isinstance(checkpoint, Checkpoint):
            by_path[checkpoint.path] = checkpoint
            try:
                by_path |= {member.path: member for member in open_reader(checkpoint).members[:-1]}
            except CheckpointError as error:
                if not is_removed(checkpoint.path, checkpoint.storage):
                    errors.append(error)
    return [*by_path.values(), *errors]


def restoring_damage(checkpoint: Checkpoint) -> list[CheckpointError]:
    """Of a checkpoint whose bytes are those that were written: what keeps it, alone, from being restored."""
    try:
        return open_reader(checkpoint).find_damage(of_last=True)
    except CheckpointError as error:
        return [error]
