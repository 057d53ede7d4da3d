"""``dataset.json``: what a packed data set consists of, by which anything in it can be checked.

A *part* (``day_0``) is three row-aligned files: ``<part>_dense.npy`` float32 (M, N), ``<part>_sparse.npy`` int32 or int64
(M, F), ``<part>_labels.npy`` int32 (M, T), T = 1 unless ``tasks`` names several; and optionally
``<part>_sparse_multi_hot.npz`` with keys "0" .. "F-1", int32 (M, hotness), and ``<part>_weights.npy`` float32 (M,). File
names in a manifest are relative to its folder and may not leave it.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dlrm.data.json_files import check_format
from dlrm.data.packed.split import Part, ResolvedSplit, Span, find_overlap
from dlrm.errors import DataError
from dlrm.schema import ONE_TASK, Schema, SparseFeature, fault_in_name

MANIFEST_NAME = "dataset.json"
FORMAT: Literal["dlrm-packed"] = "dlrm-packed"
VERSION: Literal[1] = 1
RESTORE = "restore it or preprocess again"

FileKind = Literal["dense", "sparse", "labels", "multi_hot", "weights"]
SUFFIXES: dict[FileKind, str] = {
    "dense": "_dense.npy",
    "sparse": "_sparse.npy",
    "labels": "_labels.npy",
    "multi_hot": "_sparse_multi_hot.npz",
    "weights": "_weights.npy",
}
"""What follows the part's name in the names of its files."""


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ValueError(f"the path {name!r} leaves the folder")
    if not name.isprintable() or str(path) != name or any(piece.startswith(".") for piece in path.parts):
        raise ValueError(f"{name!r} is no plain path")
    return name


def _column(name: str) -> str:
    if fault := fault_in_name(name):
        raise ValueError(f"column {name[:40]!a} {fault}")
    return name


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Count = Annotated[int, Field(ge=0, lt=2**63)]
ColumnName = Annotated[str, AfterValidator(_column)]


class FileRecord(_Record):
    """A file: its name relative to the manifest, its size and the SHA-256 of its bytes."""

    name: Annotated[str, AfterValidator(_inside)]
    bytes: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class SparseRecord(_Record):
    """A sparse feature: table size and ids a sample (of the multi-hot files where there are any)."""

    name: ColumnName
    rows: Annotated[int, Field(gt=0, le=2**40)]
    hotness: Annotated[int, Field(gt=0, lt=2**31)] = 1


class PartRecord(_Record):
    """A part: rows, files and what was counted when it was written.

    Attributes:
        clicks: rows with label 1; missing: empty raw fields by column (absent where that was not counted).
    """

    name: Annotated[str, AfterValidator(_inside)]
    rows: Count
    files: dict[FileKind, FileRecord]
    clicks: Count | None = None
    missing: dict[str, Count] | None = None


class SpanRecord(_Record):
    """Rows start .. stop - 1 of a part."""

    part: str
    start: Count
    stop: Count


class Manifest(_Record):
    """Everything that is known of a packed data set.

    Attributes:
        dense: names of the dense features; sparse: the sparse ones; tasks: names of the labels, left out if there is one.
        parts: in order; split: which rows of which parts are for what.
        preprocessing: how it was made (parameters, sources), for people and for comparison.
        vocabularies: by sparse feature, the sorted raw values (uint32 .npy) whose ids are 0 .. (plus reserved ones).
    """

    format: Literal["dlrm-packed"] = FORMAT
    version: Literal[1] = VERSION
    dense: tuple[ColumnName, ...]
    sparse: Annotated[tuple[SparseRecord, ...], Field(min_length=1)]
    tasks: Annotated[tuple[ColumnName, ...], Field(min_length=1)] | None = None
    parts: Annotated[tuple[PartRecord, ...], Field(min_length=1)]
    split: dict[Literal["train", "validation", "test"], tuple[SpanRecord, ...]]
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    vocabularies: dict[str, FileRecord] = Field(default_factory=dict)

    @property
    def schema_one_hot(self) -> Schema:
        """The columns of a sample with the ids of ``<part>_sparse.npy``."""
        sparse = tuple(SparseFeature(feature.name, feature.rows) for feature in self.sparse)
        return Schema(self.dense, sparse, self.tasks or ONE_TASK)

    @property
    def schema_multi_hot(self) -> Schema:
        """The columns of a sample with the ids of ``<part>_sparse_multi_hot.npz``."""
        sparse = tuple(SparseFeature(feature.name, feature.rows, feature.hotness) for feature in self.sparse)
        return Schema(self.dense, sparse, self.tasks or ONE_TASK)

    @property
    def resolved_split(self) -> ResolvedSplit:
        """The recorded split."""
        spans = {name: tuple(Span(s.part, s.start, s.stop) for s in self.split.get(name, ())) for name in _SPLITS}
        return ResolvedSplit(**spans)

    @property
    def sizes(self) -> tuple[Part, ...]:
        """Names and rows of the parts."""
        return tuple(Part(part.name, part.rows) for part in self.parts)


_SPLITS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")


def split_records(split: ResolvedSplit) -> dict[Literal["train", "validation", "test"], tuple[SpanRecord, ...]]:
    """A split as a manifest records it."""
    return {
        name: tuple(SpanRecord(part=span.part, start=span.start, stop=span.stop) for span in getattr(split, name))
        for name in _SPLITS
    }


def dump_manifest(manifest: Manifest) -> str:
    """The text of dataset.json; the same manifest gives the same bytes."""
    return json.dumps(manifest.model_dump(exclude_none=True), indent=1, ensure_ascii=False) + "\n"


def parse_manifest(text: str | bytes, path: str) -> Manifest:
    """Read dataset.json.

    Args:
        text: its content.
        path: how errors call it.

    Raises:
        DataError: not JSON, another format or version, a value of the wrong type, a path that leaves the folder, a
            split that names rows that are not there.
    """
    other = "is not the manifest of a packed data set"
    check_format(text, path, FORMAT, VERSION, other=other, again="preprocess again", hint=RESTORE)
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(ascii(part).strip("'") for part in detail["loc"])
        raise DataError(path, f"{where}: {_plain(detail['msg'])}", hint=RESTORE) from None
    problem = _contradiction(manifest)
    if problem:
        shown = problem if problem.isprintable() else ascii(problem)[1:-1]
        raise DataError(path, shown, hint=RESTORE)
    return manifest


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def _contradiction(manifest: Manifest) -> str:
    """The first thing in a manifest that contradicts another, in words; empty if nothing does."""
    rows = {part.name: part.rows for part in manifest.parts}
    repeated = (
        _repeated("part", [part.name for part in manifest.parts])
        or _repeated(
            "feature", [*manifest.dense, *(feature.name for feature in manifest.sparse), *(manifest.tasks or ())]
        )
        or _repeated("file", [MANIFEST_NAME, *(file.name for part in manifest.parts for file in part.files.values())])
    )
    if repeated:
        return repeated
    for name, spans in manifest.split.items():
        for span in spans:
            if span.part not in rows:
                return f"split.{name} names part {span.part}, which is not listed"
            if not span.start <= span.stop <= rows[span.part]:
                return f"split.{name} has rows {span.start} .. {span.stop} of {span.part}, which has {rows[span.part]}"
    return find_overlap(manifest.resolved_split)


def _repeated(kind: str, names: list[str]) -> str:
    twice = [name for name, count in Counter(names).items() if count > 1]
    return f"{kind} {twice[0]} is listed twice" if twice else ""
