"""``quantise``: from an export to a smaller one, and what fewer bits cost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

from dlrm.config import load_config
from dlrm.config.data import DataConfig, PlantedData
from dlrm.config.quantise import QuantiseConfig
from dlrm.data.build import build_dataset
from dlrm.data.source import Dataset
from dlrm.errors import ConfigError, ExportError
from dlrm.format import byte_size, escaped
from dlrm.inference.export.write import FolderWriter, new_export
from dlrm.inference.exported.folder import ExportFolder, open_export
from dlrm.inference.exported.manifest import PROGRAM_NAME, DensePrecision, Manifest
from dlrm.inference.quantise.budget import Found, smallest_mix
from dlrm.inference.quantise.choice import (
    lowered_manifest,
    odd_tables,
    precisions_of,
    require_float32,
    require_something_to_do,
)
from dlrm.inference.quantise.compare import Row, compare, uniform_mixes
from dlrm.inference.quantise.dense import lowered_dense
from dlrm.inference.quantise.mixes import Mix, MixScorer
from dlrm.inference.quantise.scores import Scored, read_scored, require_columns
from dlrm.inference.quantise.tables import write_tables
from dlrm.inference.quantise.text import budget_content, budget_table, comparison_table, write_results
from dlrm.inference.quantise.variants import Variants, kept_files
from dlrm.progress import standard_output


def run_quantise(config: QuantiseConfig) -> None:
    """Choose precisions, write the smaller export, and compare, as far as each is asked for.

    Raises:
        ExportError, ConfigError, DataError: what the user can mend; nothing is left.
    """
    _Job(config).run()


def write_quantised(folder: ExportFolder, writer: FolderWriter, precisions: Mix, dense: DensePrecision) -> Manifest:
    """Write all files of a quantised export.

    Args:
        folder: an export in float32.
        writer: of the new folder.
        precisions: of each table.
        dense: precision of the dense part.

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


class _Job:
    """One call of the command; what takes long is made when it is needed."""

    def __init__(self, config: QuantiseConfig) -> None:
        self._config = config
        self._console = standard_output(120)
        self._folder = open_export(config.export)
        require_float32(self._folder)
        if config.output and os.path.realpath(os.path.expanduser(config.output)) == os.path.realpath(self._folder.path):
            problem = "is the export that is quantised, which cannot be had back from fewer bits"
            raise ExportError(config.output, problem, hint="name another folder")

    def run(self) -> None:
        config, manifest = self._config, self._folder.manifest
        mix = precisions_of(manifest, config.wanted)
        if config.compare or config.budget is not None:
            require_columns(self._dataset.schema, manifest.columns)
        found: Found | None = None
        with ExitStack() as stack:
            writer = None
            if config.output:
                writer = stack.enter_context(new_export(config.output, overwrite=config.overwrite))
            if config.budget is not None:
                found = self._within(config.budget)
                mix = found.mix
            else:
                self._say(odd_tables(manifest, config.wanted))
            if writer is not None:
                require_something_to_do(mix, config.dense, config.budget)
                written = write_quantised(self._folder, writer, mix, config.dense)
        if config.output:
            self._say([_summary(manifest, written, config.output), *_dropped(manifest, written)])
        if config.compare or found is not None:
            self._compare(mix, found)

    @cached_property
    def _dataset(self) -> Dataset:
        return build_dataset(_data(self._config))

    @cached_property
    def _variants(self) -> Variants:
        return Variants(self._folder)

    def _within(self, budget: float) -> Found:
        manifest = self._folder.manifest
        with self._console.status("reading validation samples") as status:
            scored = self._read("validation")
            scorer = MixScorer(self._variants, self._config.dense, scored)
            found = smallest_mix(scorer, manifest, budget, tell=status.update)
        self._console.print(budget_table(found, manifest))
        self._say(
            [f"{len(scored):,} validation samples: log loss {found.rise:+.6f} with this mix, the budget is {budget:g}"]
        )
        return found

    def _compare(self, mix: Mix, found: Found | None) -> None:
        config, manifest = self._config, self._folder.manifest
        dims = [table.dim for table in manifest.tables]
        tables, dense = (config.compare_tables, config.compare_dense) if config.compare else ((), ())
        mixes = uniform_mixes(dims, tables, dense)
        asked_for = found is not None or config.tables or config.output
        if asked_for and (mix, config.dense) not in [(other, part) for _, other, part in mixes]:
            mixes.append((mix[0] if len(set(mix)) == 1 else "mixed", mix, config.dense))
        with self._console.status("reading test samples") as status:
            scored = self._read("test")
            rows = compare(
                self._variants,
                mixes,
                scored,
                timed_rows=config.timed_rows,
                timed_runs=config.timed_runs,
                tell=status.update,
            )
        self._console.print(comparison_table(rows, len(scored)))
        if config.results:
            self._write_results(rows, scored, found)

    def _write_results(self, rows: Sequence[Row], scored: Scored, found: Found | None) -> None:
        source = self._folder.manifest.source
        content: dict[str, Any] = {
            "run": source.run,
            "step": source.step,
            "test_samples": len(scored),
            "rows": [row.to_dict() for row in rows],
        }
        if found is not None:
            content["budget"] = {
                "budget": self._config.budget,
                **budget_content(found, self._folder.manifest),
            }
        write_results(self._config.results, content, content["rows"])

    def _read(self, split: str) -> Scored:
        source = {"validation": self._dataset.validation, "test": self._dataset.test}[split]
        return read_scored(source, self._folder.manifest.columns, max_rows=self._config.max_rows, split=split)

    def _say(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._console.print(line, markup=False, soft_wrap=True)


def _summary(before: Manifest, after: Manifest, output: str) -> str:
    sizes = [sum(file.bytes for file in manifest.files) for manifest in (before, after)]
    return (
        f"{byte_size(sizes[0])} became {byte_size(sizes[1])} in {escaped(output, 500)}: tables "
        f"{byte_size(before.table_bytes)} -> {byte_size(after.table_bytes)} "
        f"({before.table_bytes / after.table_bytes:.2f} times smaller)"
    )


def _dropped(before: Manifest, after: Manifest) -> list[str]:
    """Which forms of the dense part are not in the new export, in words."""
    gone = [file.name for file in before.files if after.file(file.name) is None]
    return [f"left out: {', '.join(gone)}, made of the dense part in float32"] if gone else []


def _data(config: QuantiseConfig) -> DataConfig:
    if not config.data_from:
        return config.data
    if config.data != PlantedData():
        raise ConfigError.at("data_from", "says which data to score, and so do options of data: give one of them")
    return load_config(config.data_from).data
