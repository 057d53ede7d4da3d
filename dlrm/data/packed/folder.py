"""Open a packed data set: find its parts, map their files, and check all that can be checked without reading them.

What is checked: that every part has its files, that they lie inside the folder, that their types, shapes and sizes are as
they should be and agree with each other, with dataset.json where there is one, and with the configured table sizes. What
is in the rows is checked when they are read; checksums are ``dlrm_main.py inspect --verify``'s.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrm.data.packed.arrays import PREPARE_AGAIN, MappedFile, map_array
from dlrm.data.packed.manifest import FileKind, Manifest
from dlrm.data.packed.naming import PartFiles, find_parts, read_manifest
from dlrm.data.packed.npz import map_members
from dlrm.data.packed.remote import fetch_folder, is_remote
from dlrm.errors import ConfigError, DataError
from dlrm.format import escaped
from dlrm.schema import ONE_TASK, Schema, SparseFeature

FILE_TYPES: dict[FileKind, tuple[str, ...]] = {
    "dense": ("<f4",),
    "sparse": ("<i4", "<i8"),
    "labels": ("<i4",),
    "multi_hot": ("<i4",),
    "weights": ("<f4",),
}
"""Types of the files, as NumPy writes them."""
OPTIONAL_FILES: tuple[FileKind, ...] = ("multi_hot", "weights")
SAMPLE_WEIGHT = "weight"
"""What the column of weights is called, which has no name."""


@dataclass(frozen=True)
class PackedPart:
    """The files of a part, mapped read-only; M rows.

    Attributes:
        dense_MN: float32 (M, N).
        sparse_MF: int32 or int64 (M, F); (M, 0) where multi-hot files were asked for and there is no one-hot one.
        labels_MT: int32 (M, T).
        multi_hot: int32 (M, hotness) by sparse feature, possibly unaligned; None where it was not asked for.
        weights_M1: float32 (M, 1), of the samples; None where they were not asked for.
        paths: the files; files: the same, opened; checksums: SHA-256 of those that dataset.json records.
    """

    name: str
    rows: int
    dense_MN: NDArray[np.float32]
    sparse_MF: NDArray[np.int32] | NDArray[np.int64]
    labels_MT: NDArray[np.int32]
    multi_hot: tuple[NDArray[np.int32], ...] | None
    paths: dict[FileKind, str]
    files: dict[FileKind, MappedFile]
    checksums: dict[FileKind, str]
    weights_M1: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class PackedFolder:
    """A packed data set.

    Attributes:
        path: the folder on this host; manifest: its dataset.json, if there is one.
        schema: columns of a sample: one-hot, or of the multi-hot files where those were asked for.
        parts: in order.
    """

    path: str
    manifest: Manifest | None
    schema: Schema
    parts: tuple[PackedPart, ...]


def open_packed(
    path: str,
    *,
    rows: Sequence[int] | None = None,
    may_be_smaller: bool = False,
    multi_hot: bool = False,
    weights: bool = False,
    cache_dir: str = "~/.cache/dlrm",
    tasks: Sequence[str] | None = None,
    rows_key: str = "data.rows",
) -> PackedFolder:
    """Open and check a packed data set.

    Args:
        path: its folder, or its URL.
        rows: table size of each sparse feature, one for all or none; needed where there is no dataset.json.
        may_be_smaller: whether ``rows`` may be smaller than dataset.json says, because ids beyond will be dealt with.
        multi_hot: take the ids of the multi-hot files.
        weights: take the weights of the samples, too.
        cache_dir: where files of a remote data set are kept.
        tasks: names of the columns of the labels, where they are several and there is no dataset.json that says; they are
            numbered if left out.
        rows_key: what the option for ``rows`` is called, for messages.

    Raises:
        DataError: the first thing that is wrong with the files.
        ConfigError: ``rows`` does not fit them.
    """
    needed: tuple[FileKind, ...] = ("dense", "labels", "multi_hot" if multi_hot else "sparse")
    needed = (*needed, "weights") if weights else needed
    folder = fetch_folder(path, cache_dir, needed) if is_remote(path) else path
    manifest = read_manifest(folder)
    found = find_parts(folder, manifest, needed)
    unasked = [kind for kind in OPTIONAL_FILES if kind not in needed]
    parts = tuple(_open_part(files, unasked) for files in found)
    _check_columns(parts, manifest)
    if multi_hot:
        _check_hotness(parts, manifest)
    hotness = _hotness(parts[0]) if multi_hot else None
    schema = replace(
        _schema(parts[0], manifest, hotness, rows, rows_key),
        tasks=_tasks(parts[0], manifest, tasks),
        sample_weight=SAMPLE_WEIGHT if weights else "",
    )
    if manifest is not None and not may_be_smaller:
        _check_tables(schema, manifest, rows_key)
    return PackedFolder(folder, manifest, schema, parts)


def _open_part(part: PartFiles, unasked: Container[FileKind]) -> PackedPart:
    wanted = {kind: path for kind, path in part.paths.items() if kind not in unasked}
    files = {kind: MappedFile(path) for kind, path in wanted.items()}
    if part.record is not None:
        _check_sizes(files, part)
    arrays = {
        kind: map_array(file, FILE_TYPES[kind], may_be_empty=kind == "dense")
        for kind, file in files.items()
        if kind != "multi_hot"
    }
    rows = part.record.rows if part.record is not None else len(arrays["dense"])
    for kind, array_MX in arrays.items():
        _check_rows(files[kind].path, array_MX, rows, part)
    if (weights := arrays.get("weights")) is not None and weights.shape[1] != 1:
        problem = f"has {weights.shape[1]} columns, and a sample has one weight"
        raise DataError(files["weights"].path, problem, hint=PREPARE_AGAIN)
    members = map_members(files["multi_hot"], FILE_TYPES["multi_hot"]) if "multi_hot" in files else None
    for feature, array_ML in enumerate(members or ()):
        _check_rows(f"{files['multi_hot'].path}:{feature}.npy", array_ML, rows, part)
    return PackedPart(
        name=part.name,
        rows=rows,
        dense_MN=arrays["dense"],
        sparse_MF=arrays.get("sparse", np.empty((rows, 0), dtype=np.int32)),
        labels_MT=arrays["labels"],
        multi_hot=members,
        paths=wanted,
        files=files,
        weights_M1=weights,
        checksums={} if part.record is None else {kind: file.sha256 for kind, file in part.record.files.items()},
    )


def _check_sizes(files: dict[FileKind, MappedFile], part: PartFiles) -> None:
    recorded = part.record.files if part.record is not None else {}
    for kind, file in files.items():
        if kind in recorded and file.size != recorded[kind].bytes:
            problem = f"has {file.size:,} bytes, dataset.json says {recorded[kind].bytes:,}"
            raise DataError(file.path, problem, hint=PREPARE_AGAIN)


def _check_rows(path: str, array_MX: NDArray[Any], rows: int, part: PartFiles) -> None:
    if len(array_MX) != rows:
        says = "dataset.json says" if part.record is not None else f"{part.paths['dense']} has"
        raise DataError(path, f"has {len(array_MX):,} rows, {says} {rows:,}", hint="prepare the part again")


def _check_columns(parts: Sequence[PackedPart], manifest: Manifest | None) -> None:
    """Every part has the columns of the manifest or, where there is none, of the first part."""
    kinds: tuple[FileKind, ...] = ("dense", "sparse", "labels")
    first: dict[FileKind, PackedPart] = {}
    recorded: dict[FileKind, Sequence[object]] = {}
    if manifest is not None:
        recorded = {"dense": manifest.dense, "sparse": manifest.sparse, "labels": manifest.tasks or ONE_TASK}
    for part in parts:
        for kind in kinds:
            if kind not in part.paths:
                continue
            reference = first.setdefault(kind, part)
            expected, says = _columns(reference, kind), f"{reference.paths[kind]} has"
            if recorded:
                expected, says = len(recorded[kind]), "dataset.json says"
            if _columns(part, kind) != expected:
                problem = f"has {_columns(part, kind)} columns, {says} {expected}"
                raise DataError(part.paths[kind], problem, hint=PREPARE_AGAIN)


def _columns(part: PackedPart, kind: FileKind) -> int:
    arrays: dict[FileKind, NDArray[Any]] = {"dense": part.dense_MN, "sparse": part.sparse_MF, "labels": part.labels_MT}
    columns: int = arrays[kind].shape[1]
    return columns


def _tasks(part: PackedPart, manifest: Manifest | None, given: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the labels' columns."""
    count = _columns(part, "labels")
    recorded = manifest.tasks if manifest is not None else None
    if recorded and given and tuple(given) != recorded:
        raise ConfigError.at("data.tasks", f"dataset.json says {', '.join(map(escaped, recorded))}: leave it out")
    if given is None and not recorded and count > 1:
        return tuple(f"label_{i}" for i in range(count))
    names = tuple(given or ()) or recorded or (ONE_TASK if count == 1 else ())
    if len(names) != count:
        problem = f"names {len(names)}" if names else "is needed"
        raise ConfigError.at("data.tasks", f"{problem}, {part.paths['labels']} has {count} columns: one a task")
    return names


def _hotness(part: PackedPart) -> list[int]:
    return [array_ML.shape[1] for array_ML in part.multi_hot or ()]


def _check_hotness(parts: Sequence[PackedPart], manifest: Manifest | None) -> None:
    """Every part has the hotness of the manifest or, where that lists no multi-hot files, of the first part."""
    first = parts[0]
    expected, says = _hotness(first), f"{first.paths['multi_hot']} has"
    features = first.sparse_MF.shape[1] or len(expected)
    if manifest is not None:
        features = len(manifest.sparse)
        if any("multi_hot" in record.files for record in manifest.parts):
            expected, says = [feature.hotness for feature in manifest.sparse], "dataset.json says"
    for part in parts:
        path, found = part.paths["multi_hot"], _hotness(part)
        if len(found) != features:
            raise DataError(
                path, f"holds {len(found)} arrays, there are {features} sparse features", hint=PREPARE_AGAIN
            )
        for i, (hotness, right) in enumerate(zip(found, expected, strict=True)):
            if hotness != right:
                raise DataError(f"{path}:{i}.npy", f"has {hotness} columns, {says} {right}", hint=PREPARE_AGAIN)


def _schema(
    part: PackedPart, manifest: Manifest | None, hotness: list[int] | None, rows: Sequence[int] | None, rows_key: str
) -> Schema:
    count = len(hotness) if hotness is not None else part.sparse_MF.shape[1]
    given = _one_per_feature(rows, count, rows_key) if rows is not None else None
    if manifest is None:
        if given is None:
            message = f"is needed for {part.paths['dense']}, as there is no dataset.json: give the size of every table"
            raise ConfigError.at(rows_key, message)
        return Schema.numbered(part.dense_MN.shape[1], given, hotness)
    sizes = [feature.rows for feature in manifest.sparse] if given is None else given
    sparse = zip(manifest.sparse, sizes, hotness or [1] * count, strict=True)
    return Schema(manifest.dense, tuple(SparseFeature(feature.name, size, hot) for feature, size, hot in sparse))


def _check_tables(schema: Schema, manifest: Manifest, rows_key: str) -> None:
    for feature, record in zip(schema.sparse, manifest.sparse, strict=True):
        if feature.rows < record.rows:
            message = (
                f"{feature.rows:,} is too small for {feature.name}: dataset.json says {record.rows:,}; give as many, or "
                "say what to do about ids beyond (data.bad_rows: hash)"
            )
            raise ConfigError.at(rows_key, message)


def _one_per_feature(rows: Sequence[int], count: int, rows_key: str) -> list[int]:
    if len(rows) not in (1, count):
        message = f"has {len(rows)} entries, the data have {count} sparse features: give one or as many"
        raise ConfigError.at(rows_key, message)
    return list(rows) * (count if len(rows) == 1 else 1)
