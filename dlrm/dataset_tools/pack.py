"""``dlrm_main.py pack``: comma separated files with a header, one a split, as a packed data set.

Public benchmarks publish their splits so, with numbers and categories that were made of raw ones (BARS' Criteo_x1: numbers
between 0 and 1, and categories that are numbered through over all columns). What they publish is kept: which row is for
what, and every number. Categories become ids of their own column by a vocabulary of the training rows: 0 is missing, 1 is
unseen or rare, the others ascend with the category.

Files are read twice, a block at a time: for the vocabularies, and to be written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from dlrm.config.prepare import PackConfig
from dlrm.data.packed.manifest import FileRecord, Manifest, PartRecord, SpanRecord, SparseRecord
from dlrm.data.packed.own import MOVE_AWAY, find_data
from dlrm.data.packed.write import PartWriter, file_record, write_manifest
from dlrm.data.raw.vocabulary import MISSING_ID, UNSEEN_ID
from dlrm.errors import DataError
from dlrm.files import UNFINISHED, written_beside
from dlrm.format import did_you_mean, first_line
from dlrm.progress import Progress, shown_progress

_BLOCK_BYTES = 16 << 20
_MOST_PENDING = 1 << 22  # categories of a column that are counted before they are merged
_HIGHEST = 2**32 - 1
_FIRST_ID = UNSEEN_ID + 1
_NULLS = ["", "NaN", "nan", "NULL", "null", "NA"]

Values = NDArray[np.uint32]


@dataclass(frozen=True)
class _Block:
    """Rows ``first`` .. of a file, counted from 1 behind the header."""

    path: str
    first: int
    table: pa.RecordBatch

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def numbers(self, column: str) -> NDArray[np.float64]:
        """float64 (B,), NaN where the field is empty."""
        found: NDArray[np.float64] = pc.fill_null(self.table.column(column), np.nan).to_numpy(zero_copy_only=False)
        return found

    def refuse(self, column: str, bad_B: NDArray[np.bool_], problem: str, hint: str) -> None:
        """Raise an error of the first bad value, if there is one."""
        if bad_B.any():
            at = int(bad_B.argmax())
            value = self.table.column(column)[at].as_py()
            shown = "empty" if value is None else repr(value)
            raise DataError(self.path, f"is {shown}, {problem}", row=self.first + at, column=column, hint=hint)

    def labels(self, column: str) -> NDArray[np.int32]:
        """int32 (B,), 0 or 1."""
        values_B = self.numbers(column)
        self.refuse(column, (values_B != 0) & (values_B != 1), "must be 0 or 1", "mend or remove the row")
        return values_B.astype(np.int32)

    def dense(self, columns: Sequence[str], missing: float) -> NDArray[np.float32]:
        """float32 (B, N)."""
        dense_BN = np.empty((len(self), len(columns)), np.float32)
        for n, column in enumerate(columns):
            values_B = self.numbers(column)
            with np.errstate(over="ignore"):
                dense_BN[:, n] = np.where(np.isnan(values_B), missing, values_B)
            self.refuse(column, ~np.isfinite(dense_BN[:, n]), "is not finite in float32", "give a finite number")
        return dense_BN

    def categories(self, column: str) -> tuple[Values, NDArray[np.bool_]]:
        """uint32 (B,), and which of them are missing."""
        values_B = self.numbers(column)
        missing_B = np.isnan(values_B)
        bad_B = ~missing_B & ((values_B < 0) | (values_B > _HIGHEST) | (values_B != np.floor(values_B)))
        hint = (
            "categories are whole numbers here; Parquet data are read with data.kind parquet, raw Criteo by preprocess"
        )
        self.refuse(column, bad_B, f"must be a whole number 0 .. {_HIGHEST}", hint)
        return np.where(missing_B, 0, values_B).astype(np.uint32), missing_B


class _Counts:
    """How often each category of a column occurs."""

    def __init__(self) -> None:
        self._values, self._counts = np.empty(0, np.uint32), np.empty(0, np.int64)
        self._pending: list[tuple[Values, NDArray[np.int64]]] = []
        self._size = 0

    def add(self, values_B: Values) -> None:
        """Count some more."""
        values, counts = np.unique(values_B, return_counts=True)
        self._pending.append((values, counts))
        self._size += len(values)
        if self._size > _MOST_PENDING:
            self._merge()

    def frequent(self, min_count: int) -> Values:
        """The categories that occur so often at least, ascending."""
        self._merge()
        return self._values[self._counts >= min_count]

    def _merge(self) -> None:
        values = np.concatenate([self._values, *(values for values, _ in self._pending)])
        counts = np.concatenate([self._counts, *(counts for _, counts in self._pending)])
        self._values, place = np.unique(values, return_inverse=True)
        self._counts = np.bincount(place, weights=counts, minlength=len(self._values)).astype(np.int64)
        self._pending, self._size = [], 0


def run_pack(config: PackConfig) -> None:
    """Write the data set.

    Raises:
        DataError: a file cannot be read, lacks a column or has a bad value; the output holds data already.
    """
    folder = Path(config.output).expanduser()
    files = {"train": config.train, "validation": config.validation, "test": config.test}
    files = {split: str(Path(path).expanduser()) for split, path in files.items() if path}
    for path in files.values():
        _require_columns(path, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(config.output, f"cannot be made ({error.strerror})", hint="name another folder") from None
    found = next((path for path in find_data(folder) if not path.name.endswith(UNFINISHED)), None)
    if found is not None:
        raise DataError(str(found), "is there already", hint=MOVE_AWAY)
    with shown_progress(True) as progress:
        vocabularies, rows = _count(config, files, progress)
        records = _write_vocabularies(folder, vocabularies)
        parts = [
            _write_part(folder, split, path, config, vocabularies, rows[split], progress)
            for split, path in files.items()
        ]
        write_manifest(
            folder,
            Manifest(
                dense=config.dense,
                sparse=tuple(
                    SparseRecord(name=name, rows=_FIRST_ID + len(values)) for name, values in vocabularies.items()
                ),
                parts=tuple(parts),
                split={split: (SpanRecord(part=split, start=0, stop=rows[split]),) for split in files},  # type: ignore[misc]
                preprocessing={
                    "command": "pack",
                    "files": {split: Path(path).name for split, path in files.items()},
                    "min_count": config.min_count,
                    "dense_missing": config.dense_missing,
                    "reserved": {"missing": MISSING_ID, "unseen": UNSEEN_ID},
                },
                vocabularies=records,
            ),
        )
        told = ", ".join(f"{count:,} {split}" for split, count in rows.items())
        progress.say(f"data set written: {config.output} ({told} rows; train with --data.kind packed)")


def _require_columns(path: str, config: PackConfig) -> None:
    """See that a file has the columns, before anything is read of others."""
    reader = _open(path, config, None)
    names = reader.schema.names
    for column in (config.label, *config.dense, *config.sparse):
        if column not in names:
            shown = ", ".join(names[:5])
            hint = did_you_mean(column, names) or f"its header begins {shown}: name columns (label, dense, sparse)"
            raise DataError(path, f"has no column {column}", row=1, hint=hint)


def _open(path: str, config: PackConfig, columns: Sequence[str] | None) -> csv.CSVStreamingReader:
    convert = csv.ConvertOptions(
        include_columns=list(columns or ()),
        column_types=dict.fromkeys(columns or (), pa.float64()),  # exact for whole numbers up to 2^53, and reads 260.0
        null_values=_NULLS,
        strings_can_be_null=True,
    )
    read = csv.ReadOptions(block_size=_BLOCK_BYTES)
    try:
        return csv.open_csv(path, read, csv.ParseOptions(delimiter=config.delimiter), convert)
    except FileNotFoundError:
        raise DataError(path, "no such file", hint="check the path") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(path, f"cannot be read ({first_line(error)})", hint="give a CSV file with a header") from None


def _blocks(path: str, config: PackConfig, columns: Sequence[str]) -> Iterator[_Block]:
    first = 1
    reader = _open(path, config, columns)
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (OSError, pa.ArrowException) as error:
            hint = "the header is row 1 there; mend the file or name another column"
            raise DataError(path, f"cannot be read ({first_line(error)})", hint=hint) from None
        if batch.num_rows:
            yield _Block(path, first, batch)
            first += batch.num_rows


def _count(
    config: PackConfig, files: Mapping[str, str], progress: Progress
) -> tuple[dict[str, Values], dict[str, int]]:
    """The vocabulary of each sparse column, and the rows of each file."""
    counts = {column: _Counts() for column in config.sparse}
    rows = dict.fromkeys(files, 0)
    for split, path in files.items():
        progress.step(f"read {split}", 1)
        counted = config.sparse if split == "train" else ()
        for block in _blocks(path, config, [config.label, *counted]):
            rows[split] += len(block)
            for column in counted:
                values_B, missing_B = block.categories(column)
                counts[column].add(values_B[~missing_B])
        if not rows[split]:
            raise DataError(path, "has a header and no rows", hint=f"leave {split} out, or name another file")
        progress.advance(1)
    return {column: one.frequent(config.min_count) for column, one in counts.items()}, rows


def _write_vocabularies(folder: Path, vocabularies: Mapping[str, Values]) -> dict[str, FileRecord]:
    """Each as an .npy file, and what the manifest says of it."""
    (folder / "vocabularies").mkdir(exist_ok=True)
    records: dict[str, FileRecord] = {}
    for number, (column, values) in enumerate(vocabularies.items()):
        path = folder / "vocabularies" / f"{number}.npy"  # a column may have any name
        with written_beside(path) as file:
            np.save(file, values, allow_pickle=False)
        records[column] = file_record(path, folder)
    return records


def _write_part(
    folder: Path,
    split: str,
    path: str,
    config: PackConfig,
    vocabularies: Mapping[str, Values],
    rows: int,
    progress: Progress,
) -> PartRecord:
    progress.step(f"write {split}", rows, unit="rows")
    writer = PartWriter(
        folder, split, rows=rows, num_dense=len(config.dense), num_sparse=len(vocabularies), wide_ids=False
    )
    clicks, written, missing = 0, 0, dict.fromkeys(vocabularies, 0)
    with closing(writer):
        for block in _blocks(path, config, [config.label, *config.dense, *config.sparse]):
            ids_BF = np.empty((len(block), len(vocabularies)), np.int32)
            for f, (column, values) in enumerate(vocabularies.items()):
                raw_B, missing_B = block.categories(column)
                ids_BF[:, f] = _ids(raw_B, missing_B, values)
                missing[column] += int(missing_B.sum())
            labels_B = block.labels(config.label)
            clicks += int(labels_B.sum())
            writer.write(block.first - 1, block.dense(config.dense, config.dense_missing), ids_BF, labels_B)
            written += len(block)
            progress.advance(len(block))
        if written < rows:
            raise DataError(path, f"had {rows:,} rows and has {written:,} now", hint="pack it again")
        return writer.finish(clicks=clicks, missing=missing)


def _ids(raw_B: Values, missing_B: NDArray[np.bool_], values: Values) -> NDArray[np.int32]:
    """int32 (B,): the ids of categories by an ascending vocabulary."""
    place_B = np.minimum(np.searchsorted(values, raw_B), max(0, len(values) - 1))
    known_B = values[place_B] == raw_B if len(values) else np.zeros(len(raw_B), bool)
    return np.where(missing_B, MISSING_ID, np.where(known_B, place_B + _FIRST_ID, UNSEEN_ID)).astype(np.int32)
