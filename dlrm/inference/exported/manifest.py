"""``manifest.json`` of an export: what the folder consists of, so that every byte of it can be checked before it is used.

An export is a folder with

- ``dense.pt2``: the dense part of the model as a ``torch.export`` program, (dense_BN, pooled_BX) -> logits_BT;
- ``tables_0000.safetensors`` ..: the tables, a large one in several pieces of consecutive rows. The header of such a file
  follows from the manifest to the byte: nothing is ever parsed from the file itself;
- ``vocabularies.safetensors``, where raw rows need them;
- where they were asked for, ``dense_compiled.pt2`` (AOTInductor, machine code) and ``dense.onnx``;
- ``manifest.json``; and ``COMMITTED``, written last: the checksum of the manifest.

Rows of a table are stored as fbgemm's inference kernel reads them: ``fp32`` and ``fp16`` as numbers, ``int8`` and ``int4``
as bytes: float16 scale, float16 bias, and then the row's integers q, two in a byte of ``int4``, the first in the lower
half; a weight is scale * q + bias.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field

from dlrm.checkpoint.manifest import Checksum, Count, Record, parse_record
from dlrm.checkpoint.safetensors_format import Entry, layout
from dlrm.errors import ExportError
from dlrm.inference.raw.record import MOST_IDS, Hotness, PreprocessingRecord
from dlrm.lookups.rule import MOST_FUNCTIONS, Rule, RuleKind
from dlrm.schema import Schema, SparseFeature
from dlrm.table_names import state_name

FORMAT: Literal["dlrm-export"] = "dlrm-export"
VERSION: Literal[1] = 1
RESTORE = "restore it or export again"

PROGRAM_NAME = "dense.pt2"
COMPILED_NAME = "dense_compiled.pt2"
ONNX_NAME = "dense.onnx"
VOCABULARIES_NAME = "vocabularies.safetensors"

Precision = Literal["fp32", "fp16", "int8", "int4"]
DensePrecision = Literal["fp32", "bf16", "int8"]
FILE_NAME = r"^[a-z0-9][a-z0-9_]{0,60}\.(pt2|onnx|safetensors)$"
FileName = Annotated[str, Field(pattern=FILE_NAME)]
Positive = Annotated[int, Field(gt=0, lt=2**48)]
Key = Annotated[int, Field(ge=-(2**63), lt=2**63)]

SCALE_AND_BIAS_BYTES = 4
"""Of a row in ``int8`` or ``int4``: two numbers of float16."""
_STORED = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.uint8, "int4": torch.uint8}


class SparseRecord(Record):
    """A sparse feature; see :class:`dlrm.schema.SparseFeature`."""

    name: str
    rows: Positive
    hotness: Hotness = 1


class TableRecord(Record):
    """A table: that of a sparse feature, in their order, unless the manifest has ``lookups``.

    Attributes:
        name, rows: those of the feature, unless they are given, as they are where there are lookups.
        dim: D; pooling: what becomes of the embeddings of a bag; precision: of its rows.
    """

    name: str | None = None
    rows: Positive | None = None
    dim: Positive
    pooling: Literal["sum", "mean"] = "sum"
    precision: Precision = "fp32"

    @property
    def stored_dtype(self) -> torch.dtype:
        """The type of what is stored of a row."""
        return _STORED[self.precision]

    @property
    def stored_columns(self) -> int:
        """Numbers of that type that a row has."""
        if self.precision in ("fp32", "fp16"):
            return self.dim
        return SCALE_AND_BIAS_BYTES + (self.dim if self.precision == "int8" else self.dim // 2)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.stored_columns * self.stored_dtype.itemsize


class LookupRecord(Record):
    """What is looked up of the ids of a sparse feature; see :class:`dlrm.lookups.plan.Lookup`.

    Attributes:
        feature, table: which, counted from 0.
        rule, size, keys, first: how ids become rows (:class:`dlrm.lookups.rule.Rule`).
        mean: whether the embeddings of a bag are averaged.
    """

    feature: Count
    table: Count
    rule: RuleKind = "id"
    size: Positive = 1
    keys: Annotated[tuple[Key, ...], Field(max_length=MOST_FUNCTIONS)] = ()
    first: Count = 0
    mean: bool = False

    @property
    def ids_to_rows(self) -> Rule:
        """The rule."""
        return Rule(self.rule, self.size, self.keys, self.first)

    def rows_needed(self, ids: int) -> int:
        """Of the table, where there are so many ids."""
        return {"id": ids, "remainder": self.size, "quotient": -(-ids // self.size), "hash": self.first + self.size}[
            self.rule
        ]


class NamedTable(NamedTuple):
    """A table with its name and its number of rows."""

    name: str
    rows: int
    record: TableRecord


class PieceRecord(Record):
    """Consecutive rows of a table.

    Attributes:
        table: which, counted from 0; first_row, rows: which of its rows.
    """

    table: Count
    first_row: Count
    rows: Positive


class FileRecord(Record):
    """A file: name, size, checksum of its bytes (BLAKE2b with 256 bits); of a file with tables, its pieces in order."""

    name: FileName
    bytes: Count
    checksum: Checksum
    pieces: tuple[PieceRecord, ...] | None = None


class CompiledRecord(Record):
    """What a machine must be for the compiled dense part: its instructions are of that kind.

    Attributes:
        machine: e.g. x86_64; capability: e.g. AVX512, as ``torch.backends.cpu.get_cpu_capability`` calls it.
        instructions: of an x86 processor the flags that it must have, as Linux calls them.
    """

    machine: str
    capability: str
    instructions: tuple[str, ...] = ()


class SourceRecord(Record):
    """What an export was made of.

    Attributes:
        run: name of the run; step, samples: that were trained; checkpoint: checksum of the checkpoint's manifest.
        averaged: whether the weights are the run's averages; model: the configuration's section.
        versions: of the packages that made it.
    """

    run: str
    step: Count
    samples: Count
    checkpoint: Checksum
    averaged: bool
    model: dict[str, Any]
    versions: dict[str, str]


class Manifest(Record):
    """Everything that is known of an export.

    Attributes:
        dense, sparse, tasks: the columns of the features and what is predicted (:class:`dlrm.schema.Schema`).
        tables: one for each sparse feature, in order, or those of ``lookups``.
        lookups: what is looked up, in the order of the columns that the dense part takes; left out where the ids of each
            feature are the rows of its table.
        dense_precision: what the weights of the dense part are.
        preprocessing: how raw rows become features (:mod:`dlrm.inference.raw`).
    """

    format: Literal["dlrm-export"] = FORMAT
    version: Literal[1] = VERSION
    dense: tuple[str, ...]
    sparse: Annotated[tuple[SparseRecord, ...], Field(min_length=1)]
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    tables: tuple[TableRecord, ...]
    lookups: Annotated[tuple[LookupRecord, ...], Field(min_length=1)] | None = None
    dense_precision: DensePrecision = "fp32"
    preprocessing: PreprocessingRecord
    files: tuple[FileRecord, ...]
    source: SourceRecord
    compiled: CompiledRecord | None = None

    @property
    def columns(self) -> Schema:
        """The columns of the features."""
        sparse = tuple(SparseFeature(feature.name, feature.rows, feature.hotness) for feature in self.sparse)
        return Schema(self.dense, sparse, self.tasks)

    @property
    def table_bytes(self) -> int:
        """Of all tables."""
        return sum(table.row_bytes * rows for _, rows, table in self.named_tables)

    @property
    def named_tables(self) -> tuple[NamedTable, ...]:
        """The tables with their names and rows."""
        if self.lookups is not None:
            return tuple(NamedTable(table.name or "", table.rows or 0, table) for table in self.tables)
        pairs = zip(self.sparse, self.tables, strict=True)
        return tuple(NamedTable(feature.name, feature.rows, table) for feature, table in pairs)

    @property
    def looked_up(self) -> tuple[LookupRecord, ...]:
        """What is looked up, in any case."""
        if self.lookups is not None:
            return self.lookups
        pooling = [table.pooling == "mean" for table in self.tables]
        return tuple(LookupRecord(feature=place, table=place, mean=mean) for place, mean in enumerate(pooling))

    @property
    def pooled_columns(self) -> int:
        """X, columns of what all lookups return."""
        return sum(self.tables[lookup.table].dim for lookup in self.looked_up)

    @property
    def tables_of_columns(self) -> list[int]:
        """The number of the table that each of these columns is of."""
        return [lookup.table for lookup in self.looked_up for _ in range(self.tables[lookup.table].dim)]

    def file(self, name: str) -> FileRecord | None:
        """A file's record; None if there is no such file."""
        return next((file for file in self.files if file.name == name), None)

    def table_layout(self, pieces: tuple[PieceRecord, ...]) -> tuple[bytes, list[Entry]]:
        """The header of a file with these pieces, and where each lies in it."""
        tensors = {}
        for piece in pieces:
            table = self.tables[piece.table]
            tensors[self.piece_name(piece)] = (table.stored_dtype, (piece.rows, table.stored_columns))
        header, entries = layout(tensors, {"format": "pt"})
        return header, [entries[self.piece_name(piece)] for piece in pieces]

    def piece_name(self, piece: PieceRecord) -> str:
        """How its tensor is called: ``cat_0``, or ``cat_0@1000000`` where it begins with a later row.

        Where the name has an @ of its own the row always follows, so that no two pieces are called the same.
        """
        record = self.tables[piece.table]
        name = state_name(self.sparse[piece.table].name if self.lookups is None else record.name or "")
        return f"{name}@{piece.first_row}" if piece.first_row or "@" in name else name


def dump_manifest(manifest: Manifest) -> bytes:
    """The text of manifest.json; the same manifest gives the same bytes."""
    content = manifest.model_dump(exclude_none=True)
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def parse_manifest(text: bytes, path: str) -> Manifest:
    """Read manifest.json.

    Raises:
        ExportError: not JSON, another format or version, a value of the wrong type, records that contradict each other.
    """
    found = parse_record(
        Manifest,
        text,
        path,
        format_name=FORMAT,
        what="not the manifest of an export",
        error=ExportError,
        restore=RESTORE,
        version=VERSION,
    )
    if problem := _contradiction(found):
        raise ExportError(path, problem, hint=RESTORE)
    return found


def _contradiction(manifest: Manifest) -> str:
    """The first thing in a manifest that contradicts another, in words; empty if nothing does."""
    names = [*manifest.dense, *(feature.name for feature in manifest.sparse)]
    files = [file.name for file in manifest.files]
    for kind, found in (("column", names), ("task", list(manifest.tasks)), ("file", files)):
        twice = [name for name, count in Counter(found).items() if count > 1]
        if twice:
            return f"{kind} {twice[0]!a} is listed twice"
    if fault := _fault_in_lookups(manifest):
        return fault
    if manifest.file(PROGRAM_NAME) is None:
        return f"{PROGRAM_NAME} is not listed"
    if odd := next((table for table in manifest.tables if table.precision == "int4" and table.dim % 2), None):
        return f"a table of {odd.dim} columns cannot be int4"
    covered = [0] * len(manifest.tables)
    for file in manifest.files:
        for piece in file.pieces or ():
            if piece.table >= len(covered) or piece.first_row != covered[piece.table]:
                return f"{file.name}: a piece of table {piece.table} begins with row {piece.first_row}"
            covered[piece.table] += piece.rows
        if file.pieces is not None and file.bytes != _bytes(manifest, file.pieces):
            return f"{file.name} has {file.bytes} bytes, its tables {_bytes(manifest, file.pieces)}"
    for table, rows in zip(manifest.named_tables, covered, strict=True):
        if rows != table.rows:
            return f"of table {table.name!a} {rows} rows are listed, not {table.rows}"
    if (ids := sum(feature.hotness for feature in manifest.sparse)) > MOST_IDS:
        return f"a row has {ids:,} ids, more than {MOST_IDS:,}"
    if manifest.preprocessing.table_rows != tuple(feature.rows for feature in manifest.sparse):
        return "its raw rows become ids of other tables"
    return ""


def _fault_in_lookups(manifest: Manifest) -> str:
    """What is wrong with tables and lookups: a lookup must find whatever row its rule may give."""
    given = [(table.name, table.rows) for table in manifest.tables]
    if manifest.lookups is None:
        if len(manifest.tables) != len(manifest.sparse):
            return f"there are {len(manifest.sparse)} sparse features and {len(manifest.tables)} tables"
        return "tables have names, and there are no lookups" if any(part for pair in given for part in pair) else ""
    if not all(name and rows for name, rows in given) or len({name for name, _ in given}) < len(given):
        return "its lookups are of tables without names of their own, or without rows"
    ids = 0
    for number, lookup in enumerate(manifest.lookups):
        if lookup.feature >= len(manifest.sparse) or lookup.table >= len(manifest.tables):
            return f"lookup {number} is of a feature or a table that there is none of"
        feature, table = manifest.sparse[lookup.feature], manifest.tables[lookup.table]
        if (lookup.rule == "hash") != bool(lookup.keys):
            return f"lookup {number} has keys, and rule {lookup.rule}"
        if lookup.rows_needed(feature.rows) > (table.rows or 0):
            return f"lookup {number} has rows that table {table.name!a} has not"
        ids += feature.hotness * lookup.ids_to_rows.rows_per_id
    return f"a row looks {ids:,} rows up, more than {MOST_IDS:,}" if ids > MOST_IDS else ""


def _bytes(manifest: Manifest, pieces: tuple[PieceRecord, ...]) -> int:
    header, entries = manifest.table_layout(pieces)
    return max((entry.stop for entry in entries), default=len(header))
