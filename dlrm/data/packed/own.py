"""Which files of a folder are surely those of a packed data set that this program has written: only they are replaced.

A file is *own* if a manifest lists it, or a command has noted before it wrote it, and if it is a file itself: links are not
followed. Whatever else has a name as a data set's files have belongs to somebody who may still want it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from dlrm.data.packed.manifest import MANIFEST_NAME, SUFFIXES, Manifest
from dlrm.errors import DataError
from dlrm.files import UNFINISHED

MOVE_AWAY = "move it away, or choose another output"


def find_data(folder: Path) -> list[Path]:
    """What is in a folder under names as a data set's files have, finished or not; the manifest first."""
    endings = tuple(suffix + end for suffix in SUFFIXES.values() for end in ("", UNFINISHED))
    manifests = [path for end in ("", UNFINISHED) if os.path.lexists(path := folder / (MANIFEST_NAME + end))]
    return [*manifests, *sorted(path for path in folder.iterdir() if path.name.endswith(endings))]


def listed_names(manifest: Manifest) -> set[str]:
    """The names of the files that a manifest lists, and its own."""
    files = [*manifest.vocabularies.values(), *(file for part in manifest.parts for file in part.files.values())]
    # `materialize` lists its files when they are whole.
    begun = {part.name + SUFFIXES["multi_hot"] + UNFINISHED for part in manifest.parts}
    return {MANIFEST_NAME, *(file.name for file in files)} | begun


def is_own(path: Path, folder: Path, names: Collection[str]) -> bool:
    """Whether a file of a folder, finished or not, is one of those that are this program's by name."""
    name = path.relative_to(folder).as_posix()
    if name not in names and name.removesuffix(UNFINISHED) not in names:
        return False
    return path.resolve() == folder.resolve() / name and stat.S_ISREG(path.lstat().st_mode)


def find_foreign(paths: Iterable[Path], folder: Path, names: Collection[str]) -> Path | None:
    """The first of some files of a folder that is not this program's; None if there is none."""
    return next((path for path in paths if not is_own(path, folder, names)), None)


def check_own(paths: Iterable[Path], folder: Path, names: Collection[str]) -> None:
    """See that all files that are in the way may be removed.

    Raises:
        DataError: one of them is not this program's.
    """
    if path := find_foreign(paths, folder, names):
        problem = "is a link" if path.is_symlink() else "was not written by this program, as far as is known"
        raise DataError(str(path), problem, hint=f"nothing was removed: {MOVE_AWAY}")
