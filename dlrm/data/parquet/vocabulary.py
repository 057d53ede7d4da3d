"""Text, or any whole numbers, as ids: numbered by the values that the files of a folder hold.

A vocabulary is a pure function of the files, the column and the least count: no file is kept of it. Every rank reads the
columns at the start and comes to the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dlrm.config.data import ParquetData
from dlrm.data.parquet.columns import ColumnMap, fault_in_values, is_list
from dlrm.data.parquet.decode import GroupReader
from dlrm.data.parquet.files import ParquetPart, find_files, nothing_found, open_part
from dlrm.data.parquet.ids import FIRST_VALUE_ID, as_text
from dlrm.errors import ConfigError

_KEPT_AT_ONCE = 1 << 22  # values that are counted before those of several row groups are summed up


def open_vocabulary_files(config: ParquetData) -> tuple[ParquetPart, ...]:
    """The files that vocabularies are of; none where there are no such columns.

    Raises:
        ConfigError: no file matches, or one has no such column, or one of another type.
        DataError: a file cannot be read.
    """
    chosen = config.vocabulary
    if not chosen.columns:
        return ()
    paths = find_files(chosen.folder, chosen.files, "data.vocabulary.files")
    if not paths:
        raise ConfigError.at("data.vocabulary.files", nothing_found(chosen.folder, chosen.files))
    parts = tuple(open_part(path) for path in paths)
    for part in parts:
        for name in chosen.columns:
            if mistake := fault_in_values(part.columns, name):
                raise ConfigError.at("data.vocabulary.columns", f"{part.path}: {mistake}")
    return parts


def find_vocabularies(config: ParquetData, columns: ColumnMap, parts: Sequence[ParquetPart]) -> dict[str, pa.Array]:
    """Of each column that has one its values, as text, ascending.

    Raises:
        ConfigError: a table has too few rows for them.
        DataError: a file cannot be read.
    """
    chosen = config.vocabulary
    features = {feature.name: feature for feature in columns.schema.sparse}
    found = {name: _values_of(parts, name, chosen.min_count) for name in chosen.columns}
    for name, values in found.items():
        needed = FIRST_VALUE_ID + len(values)
        if features[name].rows < needed:
            message = (
                f"is {features[name].rows:,} for {name}, whose vocabulary needs {needed:,} (values, missing and unseen): "
                "give as many, or raise data.vocabulary.min_count"
            )
            raise ConfigError.at("data.rows", message)
    return found


def digest_of(values: pa.Array) -> str:
    """SHA-256 of a vocabulary: the length of each value in bytes, then all values.

    Args:
        values: large_string, as :func:`find_vocabularies` makes them.
    """
    digest = hashlib.sha256(pc.binary_length(values).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
    _, offsets, data = values.buffers()
    if len(values) and data is not None:
        ends = memoryview(offsets).cast("q")
        digest.update(memoryview(data)[ends[values.offset] : ends[values.offset + len(values)]])
    return digest.hexdigest()


def _values_of(parts: Sequence[ParquetPart], name: str, min_count: int) -> pa.Array:
    counted = pa.table({"values": pa.array([], pa.large_string()), "counts": pa.array([], pa.int64())})
    pending = [counted]
    for of_group in _counted_groups(parts, name):
        pending.append(of_group)
        if sum(table.num_rows for table in pending) > _KEPT_AT_ONCE:
            pending = [_summed(pending)]
    counted = _summed(pending)
    values = counted.column("values").filter(pc.greater_equal(counted.column("counts"), min_count)).combine_chunks()
    return values.take(pc.sort_indices(values))


def _counted_groups(parts: Sequence[ParquetPart], name: str) -> Iterator[pa.Table]:
    for part in parts:
        for group, rows in enumerate(part.group_rows):
            if not rows:
                continue
            reader = GroupReader(part, group)
            values = reader.column(name)
            reader.close()
            text = as_text(values.flatten() if is_list(values.type) else values)
            counts = text.drop_null().value_counts()
            yield pa.table({"values": counts.field("values"), "counts": counts.field("counts")})


def _summed(tables: Sequence[pa.Table]) -> pa.Table:
    summed = pa.concat_tables(tables).group_by("values").aggregate([("counts", "sum")])
    return summed.rename_columns({"counts_sum": "counts"})
