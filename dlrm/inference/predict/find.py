"""From what a user names to inputs: files, patterns and folders, and which kind they are of."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence

import pyarrow as pa

from dlrm.config.predict import PredictConfig
from dlrm.data.file_names import is_data, matching_data
from dlrm.data.packed.manifest import MANIFEST_NAME, SUFFIXES
from dlrm.data.packed.remote import is_remote
from dlrm.data.packed.split import natural_key
from dlrm.errors import DataError
from dlrm.format import escaped
from dlrm.inference.predict.inputs import Input
from dlrm.inference.predict.packed import PackedInput
from dlrm.inference.predict.parquet import ParquetInput
from dlrm.inference.predict.text import BYTES_PER_ROW, TextInput
from dlrm.inference.raw import Preprocessing
from dlrm.preprocess.sources import find_sources

_ENDING = ".parquet"
_MAGIC = b"PAR1"


def open_inputs(config: PredictConfig, preprocessing: Preprocessing, rows_per_block: int) -> tuple[Input, ...]:
    """The inputs, in order.

    Args:
        config: names them.
        preprocessing: of the export.
        rows_per_block: of each block, about.

    Raises:
        DataError, ConfigError: one cannot be read, or its columns are not those of the model or of the first one.
    """
    found: list[Input] = []
    for entry in config.input:
        kind = _kind(entry) if config.kind == "auto" else config.kind
        if kind == "packed":
            found.append(PackedInput(config, entry, preprocessing, rows_per_block))
        elif kind == "parquet":
            found += [ParquetInput(config, path, preprocessing, rows_per_block) for path in _parquet_files(entry)]
        else:
            block_bytes = rows_per_block * BYTES_PER_ROW
            found += [TextInput(config, source, preprocessing, block_bytes) for source in find_sources([entry])]
    _check_alike(found)
    return tuple(found)


def _kind(entry: str) -> str:
    """What the files that an entry names look like."""
    if is_remote(entry):
        return "packed"
    if os.path.isdir(entry):
        names = os.listdir(entry)
        if MANIFEST_NAME in names or any(name.endswith(SUFFIXES["dense"]) for name in names):
            return "packed"
        return "parquet" if any(name.endswith(_ENDING) for name in names) else "criteo"
    paths = [entry] if os.path.exists(entry) else sorted(glob.glob(entry, recursive=True))
    files = [path for path in paths if os.path.isfile(path)]
    if not files:
        return "criteo"  # whose errors say what there is
    with open(files[0], "rb") as file:
        return "parquet" if file.read(len(_MAGIC)) == _MAGIC or files[0].endswith(_ENDING) else "criteo"


def _parquet_files(entry: str) -> Sequence[str]:
    if os.path.isdir(entry):
        names = [name for name in os.listdir(entry) if name.endswith(_ENDING) and is_data(name)]
        if not names:
            raise DataError(entry, f"the folder holds no *{_ENDING}", hint="check input")
        return [os.path.join(entry, name) for name in sorted(names, key=natural_key)]
    if os.path.exists(entry) or not glob.has_magic(entry):
        return [entry]
    there = [path for path in glob.glob(entry, recursive=True) if os.path.isfile(path)]
    found = matching_data(entry, there)
    if not found:
        raise DataError(entry, "the pattern matches no file", hint="check input, and quote patterns for the shell")
    return sorted(found, key=natural_key)


def _check_alike(inputs: Sequence[Input]) -> None:
    """See that a column that is carried has one type."""
    first = inputs[0]
    for other in inputs[1:]:
        for mine, its in zip(first.carried, other.carried, strict=True):
            if mine.type != its.type:
                problem = f"is {escaped(its.type, 40)}, in {first.path} {escaped(mine.type, 40)}"
                hint = "write it with one type, or carry other columns"
                raise DataError(other.path, problem, column=escaped(mine.name, 40), hint=hint)


def carried_schema(inputs: Sequence[Input]) -> pa.Schema:
    """The columns that are carried."""
    return pa.schema(inputs[0].carried)
