"""Which files a packed data set consists of: as dataset.json lists them or, without one, as they are named.

Without a manifest a part is found by the names that facebookresearch/dlrm's and torchrec's scripts give its files. Their
step that makes ids contiguous writes ``<part>_sparse_contig_freq.npy``, which users rename to ``<part>_sparse.npy``; both
are known. Where the parts are numbered (``day_0`` ...), a missing number is a missing part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dlrm.data.file_names import is_data
from dlrm.data.packed.arrays import PREPARE_AGAIN
from dlrm.data.packed.manifest import MANIFEST_NAME, SUFFIXES, FileKind, Manifest, PartRecord, parse_manifest
from dlrm.data.packed.split import natural_key
from dlrm.errors import DataError

CONTIGUOUS_SUFFIX = "_sparse_contig_freq.npy"
_NAMED = re.compile(r"^(?P<part>.+)(?P<suffix>_dense\.npy|_sparse\.npy|_labels\.npy|_sparse_contig_freq\.npy)$")
_NUMBERED = re.compile(r"^(?P<stem>.*?)(?P<number>\d+)$")
_HINTS: dict[FileKind, str] = {
    "multi_hot": "write it with dlrm_main.py materialize",
    "weights": "write the weight of each row there, or set data.sample_weights to false",
}
_MAX_MANIFEST_BYTES = 1 << 26


@dataclass(frozen=True)
class PartFiles:
    """Where the files of a part are.

    Attributes:
        paths: those that are there, by kind; record: what the manifest says of the part, if there is one.
    """

    name: str
    paths: dict[FileKind, str]
    record: PartRecord | None = None


def read_manifest(folder: str) -> Manifest | None:
    """The folder's dataset.json; None where there is none.

    Raises:
        DataError: there is no such folder, or its manifest is none.
    """
    if not os.path.isdir(folder):
        problem = "is a file, where a folder is needed" if os.path.exists(folder) else "there is no such folder"
        raise DataError(folder, problem, hint="name the folder of a packed data set")
    path = os.path.join(folder, MANIFEST_NAME)
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", hint="check its permissions") from None
    if len(text) > _MAX_MANIFEST_BYTES:
        raise DataError(path, f"is no manifest: it is larger than {_MAX_MANIFEST_BYTES:,} bytes", hint="restore it")
    return parse_manifest(text, path)


def find_parts(folder: str, manifest: Manifest | None, needed: Sequence[FileKind]) -> tuple[PartFiles, ...]:
    """The parts of a data set in order, each with at least the files that are needed.

    Args:
        folder: where they are.
        manifest: its dataset.json, if there is one.
        needed: kinds of files without which a part is not whole; a multi-hot file that the manifest does not list is
            taken where it is named like one.

    Raises:
        DataError: no part, a missing file or part, a part that is there twice, a file outside of the folder.
    """
    root = os.path.realpath(folder)
    parts = _listed(folder, manifest) if manifest else _named(folder)
    return tuple(_whole(part, needed, folder, root) for part in parts)


def check_numbers(where: str, parts: Collection[str], *, hint: str, others: Collection[str] = ()) -> None:
    """Make sure that no part is missing, or there twice, among those that are numbered (``day_0`` ...), by any stem.

    The smallest number may be any.

    Args:
        where: how messages call the place where the parts are.
        parts: their names.
        hint: what the user can do about a missing part.
        others: parts of other places, which are not missing here.

    Raises:
        DataError: one is missing or there twice.
    """
    elsewhere = {_number(name) for name in others}
    last: dict[str, tuple[int, str]] = {}
    for part in sorted(parts, key=natural_key):
        found = _number(part)
        if found is None:
            continue
        stem, number = found
        previous, previous_name = last.get(stem, (number - 1, ""))
        if number == previous:
            problem = f"parts {previous_name} and {part} have the same number"
            raise DataError(where, problem, hint="move the files of one of them away")
        missing = next((n for n in range(previous + 1, number) if (stem, n) not in elsewhere), None)
        if missing is not None:
            raise DataError(where, f"part {stem}{missing} is missing between {previous_name} and {part}", hint=hint)
        last[stem] = number, part


def _number(part: str) -> tuple[str, int] | None:
    """The stem and the number of a part's name, if it has one."""
    match = _NUMBERED.match(part)
    return (match["stem"], int(match["number"])) if match else None


def _whole(part: PartFiles, needed: Sequence[FileKind], folder: str, root: str) -> PartFiles:
    by_name: dict[FileKind, str] = {kind: os.path.join(folder, part.name + SUFFIXES[kind]) for kind in needed}
    paths = {**by_name, **part.paths}
    for kind, path in paths.items():
        if kind in needed and not os.path.lexists(path):
            hint = _HINTS.get(kind, PREPARE_AGAIN)
            raise DataError(path, f"is missing (the {kind} file of part {part.name})", hint=hint)
        if os.path.commonpath([root, os.path.realpath(path)]) != root:
            raise DataError(path, "is a link that leaves the folder", hint="put the file itself there")
    there: dict[FileKind, str] = {kind: path for kind, path in paths.items() if os.path.lexists(path)}
    return PartFiles(part.name, there, part.record)


def _listed(folder: str, manifest: Manifest) -> tuple[PartFiles, ...]:
    return tuple(
        PartFiles(part.name, {kind: os.path.join(folder, file.name) for kind, file in part.files.items()}, record=part)
        for part in manifest.parts
    )


def _named(folder: str) -> tuple[PartFiles, ...]:
    kinds: dict[str, FileKind] = {suffix: kind for kind, suffix in SUFFIXES.items()}
    kinds[CONTIGUOUS_SUFFIX] = "sparse"
    found: dict[str, dict[FileKind, str]] = {}
    for name in sorted(_list_folder(folder)):
        match = _NAMED.match(name)
        if match is None or not is_data(name):
            continue
        paths, kind = found.setdefault(match["part"], {}), kinds[match["suffix"]]
        if kind in paths:
            problem = f"is there beside {os.path.basename(paths[kind])}, and both are ids of part {match['part']}"
            raise DataError(os.path.join(folder, name), problem, hint="keep the one to read, move the other away")
        paths[kind] = os.path.join(folder, name)
    if not found:
        problem = f"holds no packed data: neither {MANIFEST_NAME} nor a file <part>{SUFFIXES['dense']}"
        raise DataError(folder, problem, hint="name the folder of a packed data set, or preprocess raw data first")
    check_numbers(folder, list(found), hint="add its files, or rename the parts")
    return tuple(PartFiles(name, found[name]) for name in sorted(found, key=natural_key))


def _list_folder(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise DataError(folder, f"cannot be listed ({error.strerror})", hint="check its permissions") from None
