"""``export``: from a checkpoint to a folder that answers without the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rich.console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from dlrm.checkpoint.fill import Progress, ignore
from dlrm.checkpoint.paths import open_one
from dlrm.checkpoint.reader import Reader, open_reader
from dlrm.checkpoint.tensors import GlobalTensor, Shard
from dlrm.config import Config
from dlrm.config.describe import to_plain
from dlrm.config.export import ExportRequest
from dlrm.config.model import ModelConfig
from dlrm.errors import ConfigError, ExportError
from dlrm.format import byte_size, escaped, printable
from dlrm.inference.export.compiled import write_compiled
from dlrm.inference.export.data import dataset_trained_on
from dlrm.inference.export.dense_program import DensePart, export_dense
from dlrm.inference.export.extras import require_extras
from dlrm.inference.export.onnx import write_onnx
from dlrm.inference.export.update import Update, update_tables
from dlrm.inference.export.weights import Weights
from dlrm.inference.export.write import (
    MAX_FILE_BYTES,
    FolderWriter,
    divide,
    mapped_pieces,
    new_export,
    table_file_name,
)
from dlrm.inference.exported.folder import open_export
from dlrm.inference.exported.manifest import (
    PROGRAM_NAME,
    VOCABULARIES_NAME,
    LookupRecord,
    Manifest,
    PieceRecord,
    SourceRecord,
    SparseRecord,
    TableRecord,
)
from dlrm.inference.exported.program import dump_program
from dlrm.inference.raw import preprocessing_of
from dlrm.lookups.shared import growing_tables
from dlrm.models.base import Model
from dlrm.models.build import build_model
from dlrm.run.environment import package_versions
from dlrm.schema import Schema
from dlrm.train.checkpointing.load import saved_config


def run_export(request: ExportRequest) -> None:
    """Write the export.

    Raises:
        CheckpointError, DataError, ConfigError, ExportError, SetupError: what the user can mend; nothing is left.
    """
    console = rich.console.Console(highlight=False)

    def say(line: str) -> None:
        console.print(printable(line), markup=False, soft_wrap=True)

    require_extras(compiled=request.compile, onnx=request.onnx)
    previous = open_export(request.update) if request.update else None
    checkpoint, skipped = open_one(request.checkpoint)
    for reason in skipped:
        say(f"passed over: {reason}")
    reader = open_reader(checkpoint)
    update = Update.of(previous, reader) if previous else None
    name = checkpoint.path.rpartition("/")[2]
    trained = request.trained(to_plain(saved_config(checkpoint)), f"configuration of {name}")
    if trained.precision.dense != "fp32":
        say(f"trained with precision.dense {trained.precision.dense}; the export computes in fp32")
    with new_export(request.output, overwrite=request.overwrite) as writer:
        job = ExportJob(
            reader,
            writer,
            trained,
            average=request.average,
            update=update,
            compiled=request.compile,
            onnx=request.onnx,
            say=say,
        )
        with _bytes_bar(console, "tables", job.table_bytes) as progress:
            manifest = job.run(progress)
    size = sum(file.bytes for file in manifest.files)
    say(
        f"step {manifest.source.step:,} as an export in {escaped(request.output, 500)}: {len(manifest.tables)} tables, "
        f"{byte_size(size)}"
    )


def _refuse_growing(model: ModelConfig, schema: Schema, path: str) -> None:
    if table := next(iter(growing_tables(model, schema)), ""):
        problem = f"table {escaped(table)} is growing: an export knows rows, and not yet which id has which"
        raise ExportError(path, problem, hint="`evaluate` scores any data with the checkpoint itself")


@contextmanager
def _bytes_bar(console: rich.console.Console, what: str, total: int) -> Iterator[Progress]:
    """A bar of bytes, on a terminal; safe from several threads."""
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        bar = bars.add_task(what, total=total)
        yield lambda nbytes: bars.advance(bar, nbytes)


class ExportJob:
    """Writes the files of an export.

    Args:
        reader: of the checkpoint.
        writer: of the folder.
        trained: the checkpoint's configuration, perhaps with another place of the data.
        average: take the averages of the weights, where there are any; of an update, what the export before has.
        max_file_bytes: of tables in a file; of an update, as before.
        update: take the tables from an earlier export and the rows that have changed since.
        compiled, onnx: write the dense part as machine code, and as ONNX, too.
        say: is told lines for the user.

    Raises:
        CheckpointError, DataError, ConfigError, ExportError: what the user can mend.
    """

    def __init__(
        self,
        reader: Reader,
        writer: FolderWriter,
        trained: Config,
        *,
        average: bool = True,
        max_file_bytes: int = MAX_FILE_BYTES,
        update: Update | None = None,
        compiled: bool = False,
        onnx: bool = False,
        say: Callable[[str], None],
    ) -> None:
        self._reader, self._writer, self._trained, self._update = reader, writer, trained, update
        self._max_file_bytes, self._compiled, self._onnx, self._say = max_file_bytes, compiled, onnx, say
        self._dataset = dataset_trained_on(trained, reader.checkpoint)
        schema = self._dataset.schema
        _refuse_growing(trained.model, schema, reader.checkpoint.path)
        if trained.model.unpooled_histories:
            message = (
                f"is {trained.model.kind}, of which there is no export yet: requests and tables of exports know bags of "
                "ids alone, no histories; score its checkpoints with evaluate"
            )
            raise ConfigError.at("model.kind", message)
        self._model = build_model(trained.model, schema, seed=trained.run.seed)
        tables = table_records(self._model)
        self._tables = update.tables(tables) if update else tables
        self._weights = Weights.of(reader, average=average and update is None)
        self._weights.dense(self._model)

    @property
    def table_bytes(self) -> int:
        """Of all tables, which are most of what is written."""
        rows = (table.rows for table in self._model.lookups.tables)
        return sum(table.row_bytes * count for table, count in zip(self._tables, rows, strict=True))

    def run(self, progress: Progress = ignore) -> Manifest:
        """Write all files.

        Args:
            progress: is told the bytes of tables that were written.
        """
        writer, schema = self._writer, self._dataset.schema
        program = export_dense(
            DensePart(self._model),
            dense_features=len(schema.dense),
            pooled_columns=self._model.pooling.columns,
        )
        writer.add(PROGRAM_NAME, dump_program(program))
        compiled = None
        if self._compiled:
            compiled = write_compiled(program, writer, self._say)
        if self._onnx:
            write_onnx(program, writer)
        preprocessing = preprocessing_of(self._trained.data, self._dataset)
        if preprocessing.arrays:
            writer.add_tensors(VOCABULARIES_NAME, preprocessing.arrays)
        described = Manifest(
            dense=schema.dense,
            sparse=tuple(
                SparseRecord(name=feature.name, rows=feature.rows, hotness=feature.hotness) for feature in schema.sparse
            ),
            tasks=schema.tasks,
            tables=self._tables,
            lookups=lookup_records(self._model),
            preprocessing=preprocessing.record,
            files=(),
            source=_source(self._trained, self._reader, self._weights),
            compiled=compiled,
        )
        self._write_tables(described, progress)
        manifest = described.model_copy(update={"files": tuple(writer.files)})
        writer.commit(manifest)
        return manifest

    def _write_tables(self, manifest: Manifest, progress: Progress) -> None:
        if self._update is None:
            limit = self._max_file_bytes
            write_tables(self._weights, manifest, self._writer, max_file_bytes=limit, progress=progress)
            return
        changes = update_tables(self._update, manifest, self._writer, progress)
        before = self._update.previous.manifest.source.step
        self._say(
            f"{changes.changed:,} of {changes.rows:,} rows changed since step {before:,}: "
            f"{byte_size(changes.bytes_read)} of them were read"
        )


def table_records(model: Model) -> tuple[TableRecord, ...]:
    """What an export's manifest says of the tables of a model."""
    lookups = model.lookups
    if lookups.are_ids:
        means = [lookup.mean for lookup in lookups.lookups]
        pairs = zip(lookups.tables, means, strict=True)
        return tuple(TableRecord(dim=table.dim, pooling="mean" if mean else "sum") for table, mean in pairs)
    return tuple(TableRecord(name=table.name, rows=table.rows, dim=table.dim) for table in lookups.tables)


def lookup_records(model: Model) -> tuple[LookupRecord, ...] | None:
    """What it says of what is looked up; nothing where ids are rows."""
    if model.lookups.are_ids:
        return None
    numbers = {table.name: number for number, table in enumerate(model.lookups.tables)}
    return tuple(
        LookupRecord(
            feature=lookup.feature,
            table=numbers[lookup.table],
            rule=lookup.rule.kind,
            size=lookup.rule.size,
            keys=lookup.rule.keys,
            first=lookup.rule.first,
            mean=lookup.mean,
        )
        for lookup in model.lookups.lookups
    )


def write_tables(
    weights: Weights, manifest: Manifest, writer: FolderWriter, *, max_file_bytes: int, progress: Progress
) -> None:
    """Write the tables as they are in the checkpoint, in memory of a few chunks."""
    tables = manifest.named_tables
    rows = [table.rows for table in tables]
    weights.check({weights.table(name): (rows, table.dim) for name, rows, table in tables})
    for number, pieces in enumerate(divide(manifest.tables, rows, max_file_bytes)):
        name = table_file_name(number)
        mapped = mapped_pieces(writer.path / name, manifest, pieces)
        weights.fill(_targets(weights, manifest, pieces, mapped), progress)
        writer.finish(name, pieces)


def _targets(
    weights: Weights, manifest: Manifest, pieces: Sequence[PieceRecord], mapped: Sequence[Any]
) -> list[GlobalTensor]:
    """Tensors of the checkpoint whose shards are the pieces' memory."""
    found = []
    for piece, tensor in zip(pieces, mapped, strict=True):
        name, rows, table = manifest.named_tables[piece.table]
        shard = Shard((piece.first_row, 0), tensor)
        found.append(GlobalTensor(weights.table(name), (rows, table.dim), tensor.dtype, shards=(shard,)))
    return found


def _source(trained: Config, reader: Reader, weights: Weights) -> SourceRecord:
    position = reader.checkpoint.metadata.get("position", {})
    return SourceRecord(
        run=trained.run.name,
        step=reader.checkpoint.step,
        samples=position.get("samples", 0) if isinstance(position, dict) else 0,
        checkpoint=reader.checkpoint.manifest_checksum,
        averaged=weights.averaged,
        model=to_plain(trained.model),
        versions=package_versions(),
    )
