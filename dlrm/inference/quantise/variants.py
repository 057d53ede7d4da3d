"""An export in memory in several precisions, and how large each is as a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from dlrm.inference.exported.folder import ExportFolder
from dlrm.inference.exported.manifest import (
    COMPILED_NAME,
    ONNX_NAME,
    PROGRAM_NAME,
    DensePrecision,
    FileRecord,
    Manifest,
    Precision,
)
from dlrm.inference.exported.predictor import Predictor, load_preprocessing
from dlrm.inference.exported.program import Dense, as_function, load_program
from dlrm.inference.exported.tables import Lookup, read_tables, require_memory, starts_of_tables
from dlrm.inference.quantise.choice import lowered_manifest
from dlrm.inference.quantise.dense import lowered_dense
from dlrm.inference.quantise.tables import tables_in_memory


class Variants:
    """The predictors that an export becomes in fewer bits; dense programs are made once and kept.

    Args:
        folder: an export in float32, all of which is read.

    Raises:
        ExportError: it is damaged.
    """

    def __init__(self, folder: ExportFolder) -> None:
        self.folder = folder
        self._weights = read_tables(folder)
        self._preprocessing = load_preprocessing(folder)
        self._programs: dict[DensePrecision, bytes] = {}
        self._functions: dict[DensePrecision, Dense] = {}

    @cached_property
    def base(self) -> Predictor:
        """The export as it is."""
        lookup = Lookup(self.folder.manifest, self._weights)
        return Predictor(self.folder, self._preprocessing, lookup, self.dense("fp32"))

    def program(self, precision: DensePrecision) -> bytes:
        """The dense part as a file."""
        if precision not in self._programs:
            self._programs[precision] = lowered_dense(self.folder, precision)
        return self._programs[precision]

    def dense(self, precision: DensePrecision) -> Dense:
        """The dense part as a function."""
        if precision not in self._functions:
            path = str(self.folder.path / PROGRAM_NAME)
            self._functions[precision] = as_function(load_program(self.program(precision), path))
        return self._functions[precision]

    def lookups(self, mixes: Sequence[Sequence[Precision]]) -> list[Lookup]:
        """The tables in these precisions, in each of which there is one for each table; float32 is in memory already.

        Raises:
            ExportError: there is too little memory for all of them, or a row cannot be stored so.
        """
        source, path = self.folder.manifest, str(self.folder.path)
        targets = [lowered_manifest(source, precisions, "fp32") for precisions in mixes]
        sizes = [starts_of_tables(target)[1] for target in targets if target.tables != source.tables]
        require_memory(sum(sizes), path, "its tables in fewer bits take")
        return [
            Lookup(target, self._weights)
            if target.tables == source.tables
            else Lookup(target, tables_in_memory(source, self._weights, target, path=path))
            for target in targets
        ]

    def predictor(self, precisions: Sequence[Precision], dense: DensePrecision) -> Predictor:
        """The whole export in these precisions; raises what :meth:`lookups` does."""
        target = lowered_manifest(self.folder.manifest, precisions, dense)
        folder = replace(self.folder, manifest=target)
        (lookup,) = self.lookups([precisions])
        return Predictor(folder, self._preprocessing, lookup, self.dense(dense))

    def file_bytes(self, precisions: Sequence[Precision], dense: DensePrecision) -> int:
        """Bytes of the files that its manifest would list."""
        source = self.folder.manifest
        target = lowered_manifest(source, precisions, dense)
        tables = sum(_bytes(file, target) for file in source.files if file.pieces is not None)
        others = sum(file.bytes for file in kept_files(source, dense))
        return tables + others + len(self.program(dense))


def kept_files(source: Manifest, dense: DensePrecision) -> list[FileRecord]:
    """The files of an export that are the same in a quantised one; forms of the dense part are, where it stays as it is."""
    made = {PROGRAM_NAME} if dense == "fp32" else {PROGRAM_NAME, COMPILED_NAME, ONNX_NAME}
    return [file for file in source.files if file.pieces is None and file.name not in made]


def _bytes(file: FileRecord, target: Manifest) -> int:
    _, entries = target.table_layout(file.pieces or ())
    return max(entry.stop for entry in entries)
