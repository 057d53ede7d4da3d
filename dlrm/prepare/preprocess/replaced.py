"""The data set that a job replaces: it stays until all of the new input was parsed and counted.

So neither a mistake in the new input nor a job that is given up costs the old data set. From then on its files are in the
way, under the names of the new ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlrm.data.packed.manifest import MANIFEST_NAME, SUFFIXES
from dlrm.data.packed.write import UNFINISHED, sha256_of
from dlrm.prepare.preprocess.work_folder import WorkFolder, read_json, write_json

NO_MANIFEST = ""


def manifest_digest(output: Path) -> str:
    """By which a data set is known again; :data:`NO_MANIFEST` where there is none."""
    path = output / MANIFEST_NAME
    return sha256_of(path) if path.exists() else NO_MANIFEST


def data_set_files(work: WorkFolder) -> list[Path]:
    """Files that a data set's may be mistaken for, finished or not; the manifest first."""
    endings = tuple(suffix + end for suffix in SUFFIXES.values() for end in ("", UNFINISHED))
    names = (MANIFEST_NAME, MANIFEST_NAME + UNFINISHED)
    manifests = [path for name in names if (path := work.output / name).exists()]
    return [*manifests, *sorted(p for p in work.output.iterdir() if p.name.endswith(endings)), *work.vocabularies()]


def remove_data_set(work: WorkFolder) -> None:
    """Remove what is in the output, the manifest first: without it nobody takes the rest for a data set."""
    for path in data_set_files(work):
        path.unlink()
    work.clear_vocabularies()


def make_way(work: WorkFolder) -> None:
    """Remove the data set that is to be replaced, unless that was done before; call it once the input is known to do."""
    state = read_json(work.state, dict[str, Any])
    if state.get("replaces") is not None:
        remove_data_set(work)
        write_json(work.state, {**state, "replaces": None})
