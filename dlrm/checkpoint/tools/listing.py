"""``checkpoint list``: what there is in a folder of checkpoints, whatever its state."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dlrm.checkpoint.manifest import COMMITTED_NAME
from dlrm.checkpoint.names import is_discarded, is_working, step_of
from dlrm.checkpoint.paths import Location, find_location, is_removed
from dlrm.checkpoint.reader import open_reader
from dlrm.checkpoint.storage import Storage, UnreachableError, reading
from dlrm.checkpoint.stored import Checkpoint
from dlrm.checkpoint.tools.format import delta_of
from dlrm.errors import CheckpointError
from dlrm.format import escaped

_OF_A_STEP = re.compile(r"step_([0-9]{8,18})(\..*)?", re.DOTALL)
_SET_ASIDE = ("damaged", "diverged")


@dataclass(frozen=True)
class Entry:
    """A folder among checkpoints.

    Attributes:
        name: of the folder, fit to print; state: what became of it, in words.
        checkpoint: if it is committed and, as far as manifests and the sizes of files tell, whole with all it depends on.
    """

    name: str
    state: str
    checkpoint: Checkpoint | None


def entries(path: str) -> list[Entry]:
    """Checkpoints and what failed saves have left, the newest first; nothing but manifests and sizes is read.

    Args:
        path: folder of a run, of its checkpoints, or one checkpoint.

    Raises:
        CheckpointError: the folder cannot be listed.
    """
    location = find_location(path)
    if location.is_checkpoint:
        return [_entry(location.storage, location.path, location.name)]
    names = _names(location)
    found = {name: _entry(location.storage, f"{location.path}/{name}", name) for name in names}
    there = set(_names(find_location(location.path)))  # a run that goes on removes old ones meanwhile
    return [entry for name, entry in found.items() if name in there]


def _names(location: Location) -> list[str]:
    steps = [(int(match[1]), name) for name in location.names if (match := _OF_A_STEP.fullmatch(name))]
    return [name for _, name in sorted(steps, reverse=True)]


def _entry(storage: Storage, path: str, name: str) -> Entry:
    shown = escaped(name)
    if is_working(name):
        return Entry(shown, "not committed: being written, or left by an interrupted save", None)
    if is_discarded(name):
        return Entry(shown, "not committed: about to be removed", None)
    for why in _SET_ASIDE:
        if f".{why}-" in name:
            return Entry(shown, f"{why}: set aside", None)
    try:
        with reading(path):
            if not storage.is_folder(path):
                return Entry(shown, "damaged: no folder, but a file or a link", None)
            if COMMITTED_NAME not in storage.names(path):
                return Entry(shown, "not committed", None)
        checkpoint = open_reader(path, storage).checkpoint
    except UnreachableError as error:
        return Entry(shown, f"not known: {escaped(error.problem, 300)}", None)
    except CheckpointError as error:
        if is_removed(path, storage):
            return Entry(shown, "not committed", None)
        where = error.path.removeprefix(path).strip("/")
        return Entry(shown, f"damaged: {escaped(f'{where} {error.problem}'.strip(), 300)}", None)
    if step_of(name) not in (None, checkpoint.step):
        return Entry(shown, f"damaged: is of step {checkpoint.step}", None)
    return Entry(shown, delta_of(checkpoint) or "committed", checkpoint)
