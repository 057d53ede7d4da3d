"""Read all of a packed data set and find what is wrong with it: the first fault of each file.

Every file is read once, front to back: the same bytes go into its SHA-256, into the CRC-32 of the archive's member that
they are in, and into the check of the values they stand for. Files are read side by side, in threads.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrm.data.packed.arrays import PREPARE_AGAIN, MappedFile, map_array
from dlrm.data.packed.folder import FILE_TYPES, OPTIONAL_FILES
from dlrm.data.packed.manifest import SUFFIXES, FileKind, FileRecord, Manifest, PartRecord
from dlrm.data.packed.naming import find_parts
from dlrm.data.packed.npz import list_members, map_members
from dlrm.dataset_tools.inspect.figures import reserved_ids
from dlrm.dataset_tools.inspect.values import (
    DenseCheck,
    IdsCheck,
    LabelsCheck,
    ValueCheck,
    VocabularyCheck,
    WeightsCheck,
)
from dlrm.errors import DataError
from dlrm.schema import ONE_TASK

_BLOCK_BYTES = 1 << 21  # small enough to be still in the cache when its values are checked

Progress = Callable[[int], None]
"""Told the number of bytes that were read."""


@dataclass(frozen=True)
class Verified:
    """What was found: faults in the order of the files; how many files were read, and their bytes."""

    faults: tuple[DataError, ...]
    files: int
    nbytes: int


@dataclass(frozen=True)
class _Array:
    """An array in bytes start .. stop - 1 of a file, header included.

    Attributes:
        name: how messages call it; values_MC: its rows; check: what they have to be; crc32: of its bytes, if recorded.
    """

    name: str
    start: int
    stop: int
    values_MC: NDArray[Any]
    check: ValueCheck
    crc32: int | None = None


@dataclass(frozen=True)
class _Expected:
    """What the files of a part have to hold; None where nothing says so.

    Attributes:
        rows: of each file; clicks: labels that are 1.
        dense, sparse, tasks: names of the columns; table_rows, hotness: of the sparse ones.
    """

    rows: int | None
    clicks: int | None
    dense: tuple[str, ...] | None
    sparse: tuple[str, ...] | None
    tasks: tuple[str, ...] | None
    table_rows: tuple[int, ...] | None
    hotness: tuple[int, ...] | None


@dataclass(frozen=True)
class _Task:
    """A file to read.

    Attributes:
        path: finds it, or raises what is wrong with where it is.
        record: its size and checksum; arrays: what is in it.
    """

    path: Callable[[], str]
    record: FileRecord | None
    arrays: Callable[[MappedFile], Sequence[_Array]]


def verify(folder: str, manifest: Manifest | None, progress: Progress) -> Verified:
    """Read every file of a data set.

    Args:
        folder: where it is.
        manifest: its dataset.json. Without one there are no checksums, and ids are only known not to be negative.
        progress: told of every block, from any thread.

    Raises:
        DataError: without a manifest, files that do not make up parts.
    """
    tasks = list(_tasks(folder, manifest))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        results = list(threads.map(partial(_run, progress=progress), tasks))
    faults = tuple(result for result in results if isinstance(result, DataError))
    return Verified(faults, len(tasks), sum(result for result in results if isinstance(result, int)))


def recorded_bytes(manifest: Manifest | None) -> int | None:
    """Bytes of all files that a manifest lists, for a progress bar."""
    if manifest is None:
        return None
    files = [file for part in manifest.parts for file in part.files.values()]
    return sum(file.bytes for file in (*files, *manifest.vocabularies.values()))


def _run(task: _Task, progress: Progress) -> int | DataError:
    """Bytes of the file, or its first fault."""
    try:
        return _read_through(MappedFile(task.path()), task, progress)
    except DataError as fault:
        return fault


def _read_through(file: MappedFile, task: _Task, progress: Progress) -> int:
    if task.record is not None and file.size != task.record.bytes:
        problem = f"has {file.size:,} bytes, dataset.json says {task.record.bytes:,}"
        raise DataError(file.path, problem, hint=PREPARE_AGAIN)
    digest = hashlib.sha256() if task.record is not None else None

    def feed(start: int, stop: int) -> memoryview:
        file.check_size()
        file.will_need(np.frombuffer(file.view[stop : stop + _BLOCK_BYTES], np.uint8))
        piece = file.view[start:stop]
        if digest is not None:
            digest.update(piece)
        progress(len(piece))
        return piece

    at = 0
    for array in sorted(task.arrays(file), key=lambda array: array.start):
        feed(at, array.start)
        _check_array(array, feed)
        at = array.stop
    feed(at, file.size)
    file.check_unchanged()
    if digest is not None and task.record is not None and digest.hexdigest() != task.record.sha256:
        problem = (
            f"has SHA-256 {digest.hexdigest()[:12]}.., dataset.json says {task.record.sha256[:12]}..: it is damaged"
        )
        raise DataError(file.path, problem, hint=PREPARE_AGAIN)
    return file.size


def _check_array(array: _Array, feed: Callable[[int, int], memoryview]) -> None:
    values_MC = array.values_MC
    row_bytes = values_MC.shape[1] * values_MC.itemsize
    step = max(1, _BLOCK_BYTES // max(1, row_bytes))
    data = array.stop - values_MC.nbytes
    crc = zlib.crc32(feed(array.start, data))
    for row in range(0, len(values_MC), step):
        block_MC = values_MC[row : row + step]
        piece = feed(data + row * row_bytes, data + row * row_bytes + block_MC.nbytes)
        if array.crc32 is not None:
            crc = zlib.crc32(piece, crc)
        array.check.block(block_MC, row)
    array.check.end(len(values_MC))
    if array.crc32 is not None and crc != array.crc32:
        problem = f"has CRC-32 {crc:08x}, the archive says {array.crc32:08x}: it is damaged"
        raise DataError(array.name, problem, hint=PREPARE_AGAIN)


def _tasks(folder: str, manifest: Manifest | None) -> Iterator[_Task]:
    if manifest is None:
        yield from _unrecorded(folder)
        return
    for part in manifest.parts:
        expected = _recorded(manifest, part)
        for kind, record in part.files.items():
            yield _Task(partial(_locate, folder, manifest, part, kind), record, partial(_arrays, kind, expected))
        for kind in OPTIONAL_FILES:
            unlisted = os.path.join(folder, part.name + SUFFIXES[kind])
            if kind not in part.files and os.path.exists(unlisted):
                yield _Task(partial(str, unlisted), None, partial(_arrays, kind, expected))
    sizes = {feature.name: feature.rows for feature in manifest.sparse}
    for name, record in manifest.vocabularies.items():
        path = partial(os.path.join, folder, record.name)
        yield _Task(path, record, partial(_vocabulary, name, _vocabulary_sizes(manifest, sizes[name])))


def _locate(folder: str, manifest: Manifest, part: PartRecord, kind: FileKind) -> str:
    """Where a file is, after the checks of :func:`~dlrm.data.packed.naming.find_parts` for this file alone."""
    alone = part.model_copy(update={"files": {kind: part.files[kind]}})
    return find_parts(folder, manifest.model_copy(update={"parts": (alone,)}), (kind,))[0].paths[kind]


def _recorded(manifest: Manifest, part: PartRecord) -> _Expected:
    listed = any("multi_hot" in record.files for record in manifest.parts)
    return _Expected(
        rows=part.rows,
        clicks=part.clicks,
        dense=manifest.dense,
        sparse=tuple(feature.name for feature in manifest.sparse),
        tasks=manifest.tasks or ONE_TASK,
        table_rows=tuple(feature.rows for feature in manifest.sparse),
        hotness=tuple(feature.hotness for feature in manifest.sparse) if listed else None,
    )


def _unrecorded(folder: str) -> Iterator[_Task]:
    """Without a manifest the rows of a part are those of its dense file."""
    for part in find_parts(folder, None, ("dense", "labels")):
        expected = _Expected(_rows_of(part.paths["dense"]), None, None, None, None, None, None)
        paths = dict(part.paths)
        for kind in OPTIONAL_FILES:
            path = os.path.join(folder, part.name + SUFFIXES[kind])
            if os.path.exists(path):
                paths[kind] = path
        for kind, path in paths.items():
            yield _Task(partial(str, path), None, partial(_arrays, kind, expected))


def _rows_of(path: str) -> int | None:
    """Rows of a dense file; None where it has a fault, which is reported when it is that file's turn."""
    try:
        return len(map_array(MappedFile(path), FILE_TYPES["dense"], may_be_empty=True))
    except DataError:
        return None


def _arrays(kind: FileKind, expected: _Expected, file: MappedFile) -> list[_Array]:
    """The arrays of a part's file, once their shapes were checked."""
    if kind == "multi_hot":
        return _multi_hot_arrays(expected, file)
    values_MC = map_array(file, FILE_TYPES[kind], may_be_empty=kind == "dense")
    if kind == "weights":
        _check_shape(file.path, values_MC, expected.rows, 1)
        return [_Array(file.path, 0, file.size, values_MC, WeightsCheck(file.path))]
    names = {"dense": expected.dense, "sparse": expected.sparse, "labels": expected.tasks}[kind]
    if names is None and kind == "labels" and values_MC.shape[1] == 1:
        names = ONE_TASK
    if names is None:
        called = {"dense": "int", "sparse": "cat", "labels": "label"}[kind]
        names = tuple(f"{called}_{i}" for i in range(values_MC.shape[1]))
    _check_shape(file.path, values_MC, expected.rows, len(names))
    checks: dict[str, ValueCheck] = {
        "dense": DenseCheck(file.path, names),
        "sparse": IdsCheck(file.path, names, expected.table_rows if kind == "sparse" else None),
        "labels": LabelsCheck(file.path, names, expected.clicks),
    }
    return [_Array(file.path, 0, file.size, values_MC, checks[kind])]


def _multi_hot_arrays(expected: _Expected, file: MappedFile) -> list[_Array]:
    arrays = map_members(file, FILE_TYPES["multi_hot"], count=None if expected.sparse is None else len(expected.sparse))
    members = {member.name: member for member in list_members(file)}
    found = []
    for i, values_MC in enumerate(arrays):
        member = members[f"{i}.npy"]
        name = f"{file.path}:{member.name}"
        hotness = expected.hotness[i] if expected.hotness is not None else values_MC.shape[1]
        _check_shape(name, values_MC, expected.rows, hotness)
        column = expected.sparse[i] if expected.sparse else f"cat_{i}"
        rows = [expected.table_rows[i]] * hotness if expected.table_rows is not None else None
        check = IdsCheck(name, [column] * hotness, rows)
        found.append(_Array(name, member.start, member.stop, values_MC, check, member.crc32))
    return found


def _check_shape(name: str, values_MC: NDArray[Any], rows: int | None, columns: int) -> None:
    if rows is not None and len(values_MC) != rows:
        raise DataError(name, f"has {len(values_MC):,} rows, the part has {rows:,}", hint=PREPARE_AGAIN)
    if values_MC.shape[1] != columns:
        raise DataError(name, f"has {values_MC.shape[1]} columns, {columns} are needed", hint=PREPARE_AGAIN)


def _vocabulary(column: str, sizes: Sequence[int], file: MappedFile) -> list[_Array]:
    values_MC = map_array(file, ("<u4",))
    _check_shape(file.path, values_MC, None, 1)
    return [_Array(file.path, 0, file.size, values_MC, VocabularyCheck(file.path, column, sizes))]


def _vocabulary_sizes(manifest: Manifest, table_rows: int) -> tuple[int, ...]:
    """How many raw values a table is for; where it is not recorded which ids are reserved, none or two."""
    count = reserved_ids(manifest).count
    return (table_rows - 2, table_rows) if count is None else (table_rows - count,)
