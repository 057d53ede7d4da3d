"""``export``: from a checkpoint to a folder that answers without the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rich.console

from dlrm.checkpoint.fill import Progress, ignore
from dlrm.checkpoint.paths import open_one
from dlrm.checkpoint.reader import Reader, open_reader
from dlrm.checkpoint.tensors import GlobalTensor, Shard
from dlrm.config import Config
from dlrm.config.describe import to_plain
from dlrm.config.export import ExportModelConfig
from dlrm.data.build import build_dataset
from dlrm.format import byte_size, escaped
from dlrm.inference.export.dense_program import DensePart, export_dense
from dlrm.inference.export.weights import Weights
from dlrm.inference.export.write import (
    MAX_FILE_BYTES,
    FolderWriter,
    divide,
    mapped_pieces,
    new_export,
    table_file_name,
)
from dlrm.inference.exported.manifest import (
    PROGRAM_NAME,
    VOCABULARIES_NAME,
    Manifest,
    PieceRecord,
    SourceRecord,
    SparseRecord,
    TableRecord,
)
from dlrm.inference.exported.program import dump_program
from dlrm.inference.raw import preprocessing_of
from dlrm.models.base import Model
from dlrm.models.build import build_model
from dlrm.run.environment import package_versions
from dlrm.schema import Schema
from dlrm.train.checkpointing.load import saved_config


def run_export(config: ExportModelConfig) -> None:
    """Write the export.

    Raises:
        CheckpointError, DataError, ConfigError, ExportError: what the user can mend; nothing is left.
    """
    console = rich.console.Console(highlight=False)
    checkpoint, skipped = open_one(config.checkpoint)
    for reason in skipped:
        console.print(f"passed over: {reason}", markup=False, soft_wrap=True)
    reader = open_reader(checkpoint)
    with new_export(config.output, overwrite=config.overwrite) as writer:
        manifest = write_export(reader, writer, average=config.average)
    size = sum(file.bytes for file in manifest.files)
    console.print(
        f"step {manifest.source.step:,} as an export in {escaped(config.output, 500)}: {len(manifest.tables)} tables, "
        f"{byte_size(size)}",
        markup=False,
        soft_wrap=True,
    )


def write_export(
    reader: Reader,
    writer: FolderWriter,
    *,
    average: bool = True,
    max_file_bytes: int = MAX_FILE_BYTES,
    progress: Progress = ignore,
) -> Manifest:
    """Write all files of an export.

    Args:
        reader: of the checkpoint.
        writer: of the folder.
        average: take the averages of the weights, where there are any.
        max_file_bytes: of tables in a file.
        progress: is told the bytes of tables that were written.

    Raises:
        CheckpointError, DataError, ConfigError: what the user can mend.
    """
    trained = saved_config(reader.checkpoint)
    dataset = build_dataset(trained.data)
    model = build_model(trained.model, dataset.schema, seed=trained.run.seed)
    weights = Weights.of(reader, average=average)
    weights.dense(model)
    tables = table_records(model, dataset.schema)
    program = export_dense(
        DensePart(model), dense_features=len(dataset.schema.dense), pooled_columns=sum(table.dim for table in tables)
    )
    writer.add(PROGRAM_NAME, dump_program(program))
    preprocessing = preprocessing_of(trained.data, dataset)
    if preprocessing.arrays:
        writer.add_tensors(VOCABULARIES_NAME, preprocessing.arrays)
    described = Manifest(
        dense=dataset.schema.dense,
        sparse=tuple(
            SparseRecord(name=feature.name, rows=feature.rows, hotness=feature.hotness)
            for feature in dataset.schema.sparse
        ),
        tasks=dataset.schema.tasks,
        tables=tables,
        preprocessing=preprocessing.record,
        files=(),
        source=_source(trained, reader, weights),
    )
    write_tables(weights, described, writer, max_file_bytes=max_file_bytes, progress=progress)
    manifest = described.model_copy(update={"files": tuple(writer.files)})
    writer.commit(manifest)
    return manifest


def table_records(model: Model, schema: Schema) -> tuple[TableRecord, ...]:
    """What an export's manifest says of the tables of a model."""
    dims = [table.embedding_dim for table in model.tables.embedding_bag_configs()]
    means = model.pooling.mean_F1.flatten().tolist()
    return tuple(TableRecord(dim=dim, pooling="mean" if mean else "sum") for dim, mean in zip(dims, means, strict=True))


def write_tables(
    weights: Weights, manifest: Manifest, writer: FolderWriter, *, max_file_bytes: int, progress: Progress
) -> None:
    """Write the tables as they are in the checkpoint, in memory of a few chunks."""
    rows = [feature.rows for feature in manifest.sparse]
    weights.check(
        {
            weights.table(feature.name): (feature.rows, table.dim)
            for feature, table in zip(manifest.sparse, manifest.tables, strict=True)
        }
    )
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
        feature, table = manifest.sparse[piece.table], manifest.tables[piece.table]
        shard = Shard((piece.first_row, 0), tensor)
        found.append(
            GlobalTensor(weights.table(feature.name), (feature.rows, table.dim), tensor.dtype, shards=(shard,))
        )
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
