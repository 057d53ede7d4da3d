"""The data set that a job replaces: it stays until all of the new input was parsed and counted.

So neither a mistake in the new input nor a job that is given up costs the old data set. From then on its files are in the
way, under the names of the new ones. Only files that are surely this program's are removed: those that the old manifest
lists, which are noted before it goes, and those that a job is going to write, which it notes before it begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrm.config.prepare import ContiguousVocabulary, PreprocessConfig
from dlrm.data.packed.manifest import MANIFEST_NAME, SUFFIXES
from dlrm.data.packed.naming import read_manifest
from dlrm.data.packed.own import MOVE_AWAY, check_own, find_data, is_own, listed_names
from dlrm.data.packed.write import sha256_of
from dlrm.errors import DataError
from dlrm.preprocess.work_folder import WorkFolder, read_json, write_json


def manifest_digest(output: Path) -> str | None:
    """By which a data set is known again; None where there is none."""
    path = output / MANIFEST_NAME
    return sha256_of(path) if path.exists() else None


def data_set_files(work: WorkFolder) -> list[Path]:
    """Files that a data set's may be mistaken for, finished or not; the manifest first."""
    return [*find_data(work.output), *work.vocabularies()]


def own_names(work: WorkFolder) -> set[str]:
    """The names of the files in the output that are this program's: as the manifest lists them or, without it, as noted.

    Raises:
        DataError: the manifest is none.
    """
    manifest = read_manifest(str(work.output))
    return listed_names(manifest) if manifest is not None else _noted_names(work)


def check_replaceable(work: WorkFolder) -> set[str]:
    """The names of own files, if nothing else is in the way.

    Raises:
        DataError: something is; or what should be the manifest of a data set is none.
    """
    files = data_set_files(work)
    try:
        names = own_names(work)
    except DataError as error:
        raise DataError(error.path, error.problem, mend=f"nothing was removed: {MOVE_AWAY}") from None
    check_own(files, work.output, names)
    return names


def note_names(work: WorkFolder, config: PreprocessConfig, parts: Sequence[str], old: set[str]) -> None:
    """Note which files in the output are this program's: the ``old`` ones, and those that the job is going to write."""
    kinds = (SUFFIXES["dense"], SUFFIXES["sparse"], SUFFIXES["labels"])
    names = {MANIFEST_NAME, *(part + suffix for part in parts for suffix in kinds)}
    if isinstance(config.categories, ContiguousVocabulary):
        paths = [work.vocabulary(column) for column in range(config.num_sparse)]
        names |= {path.relative_to(work.output).as_posix() for path in paths}
    write_json(work.own_names, sorted(names | old))


def remove_data_set(work: WorkFolder) -> None:
    """Remove what is noted as own, the manifest first: without it nobody takes the rest for a data set."""
    names = _noted_names(work)
    for path in data_set_files(work):
        if is_own(path, work.output, names):
            path.unlink()
    work.drop_vocabulary_folder()


def make_way(work: WorkFolder) -> None:
    """Remove the data set that is to be replaced, unless that was done before; call it once the input is known to do.

    Raises:
        DataError: it is not the one that was there when the job began.
    """
    state = read_json(work.state, dict[str, Any])
    if state.get("replaces") is not None:
        if manifest_digest(work.output) not in (None, state["replaces"]):
            problem = "was changed while the new input was parsed; nothing was removed"
            mend = "set overwrite to true to start over, or choose another output"
            raise DataError(str(work.output / MANIFEST_NAME), problem, mend=mend)
        remove_data_set(work)
        write_json(work.state, {**state, "replaces": None})


def _noted_names(work: WorkFolder) -> set[str]:
    return set(read_json(work.own_names, list[str])) if work.own_names.exists() else set()
