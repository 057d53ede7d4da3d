"""``quantise``: from an export to a smaller one, and what fewer bits cost."""

from __future__ import annotations

import rich.console

from dlrm.config import load_config
from dlrm.config.data import DataConfig, PlantedData
from dlrm.config.quantise import QuantiseConfig
from dlrm.data.build import build_dataset
from dlrm.errors import ConfigError
from dlrm.format import byte_size, escaped
from dlrm.inference.export.write import FolderWriter, new_export
from dlrm.inference.exported.folder import ExportFolder, open_export
from dlrm.inference.exported.manifest import PROGRAM_NAME, DensePrecision, Manifest, Precision
from dlrm.inference.quantise.choice import (
    lowered_manifest,
    odd_tables,
    precisions_of,
    require_float32,
    require_something_to_do,
)
from dlrm.inference.quantise.compare import compare, uniform_mixes
from dlrm.inference.quantise.dense import lowered_dense
from dlrm.inference.quantise.scores import read_scored
from dlrm.inference.quantise.tables import write_tables
from dlrm.inference.quantise.text import comparison_table, write_results
from dlrm.inference.quantise.variants import Variants, kept_files


def run_quantise(config: QuantiseConfig) -> None:
    """Write the smaller export, compare precisions, or both.

    Raises:
        ExportError, ConfigError, DataError: what the user can mend; nothing is left.
    """
    console = rich.console.Console(highlight=False)
    folder = open_export(config.export)
    require_float32(folder)
    precisions = precisions_of(folder.manifest, config.wanted)
    for line in odd_tables(folder.manifest, config.wanted):
        console.print(line, markup=False, soft_wrap=True)
    if config.output:
        require_something_to_do(precisions, config.dense)
        with new_export(config.output, overwrite=config.overwrite) as writer:
            manifest = write_quantised(folder, writer, precisions, config.dense)
        console.print(_summary(folder.manifest, manifest, config.output), markup=False, soft_wrap=True)
    if config.compare:
        _compare(config, folder, console)


def write_quantised(
    folder: ExportFolder, writer: FolderWriter, precisions: tuple[Precision, ...], dense: DensePrecision
) -> Manifest:
    """Write all files of a quantised export.

    Args:
        folder: an export in float32.
        writer: of the new folder.
        precisions: of each table; dense: of the dense part.

    Raises:
        ExportError: the export is damaged; a row cannot be stored so.
        ConfigError: the model names no part for lower precision.
    """
    target = lowered_manifest(folder.manifest, precisions, dense)
    writer.add(PROGRAM_NAME, lowered_dense(folder, dense))
    for file in kept_files(folder.manifest, dense):
        writer.add(file.name, folder.read(file.name))
    write_tables(folder, target, writer)
    manifest = target.model_copy(update={"files": tuple(writer.files)})
    writer.commit(manifest)
    return manifest


def _summary(before: Manifest, after: Manifest, output: str) -> str:
    sizes = [sum(file.bytes for file in manifest.files) for manifest in (before, after)]
    return (
        f"{byte_size(sizes[0])} became {byte_size(sizes[1])} in {escaped(output, 500)}: tables "
        f"{byte_size(before.table_bytes)} -> {byte_size(after.table_bytes)} "
        f"({before.table_bytes / after.table_bytes:.2f} times smaller)"
    )


def _compare(config: QuantiseConfig, folder: ExportFolder, console: rich.console.Console) -> None:
    dataset = build_dataset(_data(config))
    scored = read_scored(dataset.test, folder.manifest.columns, max_rows=config.max_rows, split="test")
    variants = Variants(folder)
    dims = [table.dim for table in folder.manifest.tables]
    mixes = uniform_mixes(dims, config.compare_tables, config.compare_dense)
    with console.status("") as status:
        rows = compare(
            variants,
            mixes,
            scored,
            timed_rows=config.timed_rows,
            timed_runs=config.timed_runs,
            tell=status.update,
        )
    console.print(comparison_table(rows, len(scored)))
    if config.results:
        found = [row.to_dict() for row in rows]
        write_results(config.results, {"samples": len(scored), "rows": found}, found)


def _data(config: QuantiseConfig) -> DataConfig:
    if not config.data_from:
        return config.data
    if config.data != PlantedData():
        raise ConfigError.at("data_from", "says which data to score, and so do options of data: give one of them")
    return load_config(config.data_from).data
