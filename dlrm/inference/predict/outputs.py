"""The files that results are written to. The same results give the same bytes, in whatever pieces they come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from dlrm.errors import ConfigError
from dlrm.format import escaped

_GROUP_ROWS = 1 << 17


class Writer(ABC):
    """Writes rows to a file."""

    @abstractmethod
    def write(self, rows: pa.Table) -> None:
        """Write further rows."""

    def close(self) -> None:  # noqa: B027  # most have nothing to do
        """Write what is left."""


class NpyWriter(Writer):
    """float32 (M, T): NaN where null.

    Args:
        file: to write; rows: M.
        schema: T columns of float32.
    """

    def __init__(self, file: BinaryIO, rows: int, schema: pa.Schema) -> None:
        self._file = file
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, len(schema))}
        np.lib.format.write_array_header_1_0(file, header)

    def write(self, rows: pa.Table) -> None:
        """See :meth:`Writer.write`."""
        columns = [column.to_numpy(zero_copy_only=False) for column in rows.columns]
        self._file.write(np.stack(columns, axis=1).astype("<f4", copy=False).tobytes())


class CsvWriter(Writer):
    """A header, and a line each row; empty where null."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        options = pa.csv.WriteOptions(quoting_style="needed")
        self._writer = pa.csv.CSVWriter(file, schema, write_options=options)

    def write(self, rows: pa.Table) -> None:
        """See :meth:`Writer.write`."""
        self._writer.write_table(rows)

    def close(self) -> None:
        """See :meth:`Writer.close`."""
        self._writer.close()


class ParquetWriter(Writer):
    """Row groups of a fixed number of rows."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self._writer = pa.parquet.ParquetWriter(file, schema)
        self._waiting = schema.empty_table()

    def write(self, rows: pa.Table) -> None:
        """See :meth:`Writer.write`."""
        self._waiting = pa.concat_tables([self._waiting, rows])
        while self._waiting.num_rows >= _GROUP_ROWS:
            self._write(self._waiting.slice(0, _GROUP_ROWS))
            self._waiting = self._waiting.slice(_GROUP_ROWS)

    def close(self) -> None:
        """See :meth:`Writer.close`."""
        if self._waiting.num_rows:
            self._write(self._waiting)
        self._writer.close()

    def _write(self, rows: pa.Table) -> None:
        # In one piece: where pages end depends on the pieces.
        self._writer.write_table(rows.combine_chunks(), row_group_size=_GROUP_ROWS)


def open_writer(ending: str, file: BinaryIO, rows: int, schema: pa.Schema) -> Writer:
    """What writes a file with this ending.

    Args:
        ending: of the file's name.
        file: to write.
        rows: of it.
        schema: its columns.
    """
    if ending == ".npy":
        return NpyWriter(file, rows, schema)
    return CsvWriter(file, schema) if ending == ".csv" else ParquetWriter(file, schema)


def output_schema(ending: str, carried: pa.Schema, tasks: tuple[str, ...], *, logits: bool) -> pa.Schema:
    """The columns of the output: what is carried, then ``probability``, or ``probability_<task>`` of several tasks.

    Raises:
        ConfigError: two columns have one name, or a column cannot be written to such a file.
    """
    name = "logit" if logits else "probability"
    names = [name] if len(tasks) == 1 else [f"{name}_{task}" for task in tasks]
    for field in carried:
        if field.name in names:
            raise ConfigError.at("carry", f"{escaped(field.name, 40)} is what the results are called: leave it out")
        if ending == ".csv" and pa.types.is_nested(field.type):
            kind = escaped(field.type, 40)
            raise ConfigError.at(
                "carry", f"{escaped(field.name, 40)} is {kind}, which .csv cannot hold: write .parquet"
            )
    return pa.schema([*carried, *(pa.field(name, pa.float32()) for name in names)])
