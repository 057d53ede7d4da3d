"""Which columns of a Parquet file are wanted for what, and whether their types will do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pyarrow as pa

from dlrm.config.data import ParquetData
from dlrm.config.data.packed import BadRows
from dlrm.data.parquet.files import ParquetPart
from dlrm.errors import ConfigProblem, DataError
from dlrm.format import did_you_mean
from dlrm.schema import Schema, SparseFeature

_INT32_IDS = 2**31  # tables with more rows have ids that need int64


@dataclass(frozen=True)
class ColumnMap:
    """The columns of a sample.

    Attributes:
        schema: names of the columns, table sizes and most ids of a bag.
        dense_missing: stands for a null or NaN in a dense column.
        bad_rows: what to do about what is no id, and about lists longer than their hotness.
        lists: the sparse columns that hold lists; known once the files are.
        texts: the sparse columns whose values become ids by a vocabulary; None where none can have one.
        vocabularies: these, by column, as text in ascending order; known once their files were read.
        newest: of histories, which end of a list is kept where it is longer than the hotness, by column.
    """

    schema: Schema
    dense_missing: float
    bad_rows: BadRows = "error"
    lists: frozenset[str] = frozenset()
    texts: frozenset[str] | None = None
    vocabularies: Mapping[str, pa.Array] = field(default_factory=dict)
    newest: Mapping[str, Literal["first", "last"]] = field(default_factory=dict)

    @classmethod
    def of(cls, config: ParquetData) -> ColumnMap:
        """The columns that a configuration names."""
        count = len(config.sparse)
        rows = config.rows * count if len(config.rows) == 1 else config.rows
        hotness = config.hotness * count if len(config.hotness) == 1 else config.hotness
        weights = [config.id_weights.get(name, "") for name in config.sparse]
        sparse = tuple(SparseFeature(*facts) for facts in zip(config.sparse, rows, hotness, weights, strict=True))
        rows_of = {feature.name: feature.rows for feature in sparse}
        histories = tuple(
            SparseFeature(name, rows_of[column.item], column.max_length, history_of=column.item)
            for name, column in config.sequences.items()
        )
        schema = Schema(config.dense, sparse + histories, config.tasks or (config.label,), config.sample_weight or "")
        return cls(
            schema,
            config.dense_missing,
            config.bad_rows,
            texts=frozenset(config.vocabulary.columns),
            newest={name: column.newest for name, column in config.sequences.items()},
        )

    @property
    def names(self) -> tuple[str, ...]:
        """All columns to read."""
        sparse = self.schema.sparse
        weights = (self.schema.sample_weight, *(feature.weights for feature in sparse))
        names = (*self.schema.tasks, *self.schema.dense, *(feature.name for feature in sparse))
        return (*names, *dict.fromkeys(name for name in weights if name))

    def decoded_bytes(self, rows: int) -> int:
        """Bytes of ``rows`` samples once decoded (:class:`~dlrm.data.parquet.decode.DecodedGroup`)."""
        schema = self.schema
        id_bytes = 8 if max(feature.rows for feature in schema.sparse) > _INT32_IDS else 4
        lengths = 4 * len(schema.sparse) if self.lists else 0
        weights = 4 * bool(schema.sample_weight) + 4 * schema.ids_per_sample * schema.ids_have_weights
        numbers = 4 * len(schema.tasks) + 4 * len(schema.dense) + weights
        return rows * (numbers + id_bytes * schema.ids_per_sample + lengths)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds several values a row."""
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def with_lists(columns: ColumnMap, files: Sequence[ParquetPart]) -> ColumnMap:
    """The columns with ``lists`` as the files have them. A column of nulls alone is what it is in the other files.

    Raises:
        DataError: a column holds lists in one file and single ids in another: two ways of encoding.
    """
    lists = set[str]()
    for feature in columns.schema.sparse:
        kinds = [(part, part.columns.field(feature.name).type) for part in files]
        telling = [(part, kind) for part, kind in kinds if not pa.types.is_null(kind)]
        for part, kind in telling:
            first, there = telling[0]
            if is_list(kind) != is_list(there):
                problem = f"is {kind}, but {there} in {first.path}"
                raise DataError(part.path, problem, column=feature.name, hint="write all files with one schema")
        if is_list(telling[0][1]) if telling else feature.hotness > 1 or feature.history_of:
            lists.add(feature.name)
    return replace(columns, lists=frozenset(lists))


def mapping_problems(columns: ColumnMap, found: pa.Schema, path: str) -> list[ConfigProblem]:
    """Everything that keeps the columns of a file from being what the configuration says.

    Args:
        columns: what is wanted.
        found: the file's columns.
        path: how messages call the file.
    """
    return [ConfigProblem(key, "", f"{path}: {message}") for key, message in mistakes(columns, found)]


def mistakes(columns: ColumnMap, found: pa.Schema) -> Iterator[tuple[str, str]]:
    """Dotted option and message of each mistake in what is wanted of a file with these columns."""
    tasks = columns.schema.tasks
    key = "data.label" if len(tasks) == 1 else "data.tasks"
    for label in tasks:
        kind, missing = kind_of(found, label)
        if missing:
            yield key, missing
        elif kind is not None and pa.types.is_null(kind) and columns.bad_rows != "skip" and len(tasks) == 1:
            yield key, f"column {label} holds nothing but nulls, and a label is 0 or 1: leave the file out"
        elif kind is not None and not is_number(kind):
            yield key, f"column {label} is {_named(kind)}, not numbers: a label is 0 or 1"
    for name in columns.schema.dense:
        kind, missing = kind_of(found, name)
        if missing:
            yield "data.dense", missing
        elif kind is not None and not is_number(kind):
            yield "data.dense", f"column {name} is {_named(kind)}, not numbers: convert it or leave it out"
    for feature in columns.schema.sparse:
        kind, missing = kind_of(found, feature.name)
        if missing:
            yield _option(feature), missing
        elif kind is not None:
            yield from _sparse_mistakes(columns, found, feature, kind)
    yield from _weight_mistakes(columns.schema, found)


def kind_of(found: pa.Schema, name: str) -> tuple[pa.DataType | None, str]:
    """The type of a column, a dictionary's being that of its values; or why there is none."""
    places = found.get_all_field_indices(name)
    if not places:
        return None, f"there is no column {name}{_nearest(name, found.names)}"
    if len(places) > 1:
        return None, f"there are {len(places)} columns {name}: rename all but one"
    return _values_kind(found.field(places[0]).type), ""


def _values_kind(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _option(feature: SparseFeature) -> str:
    return f"data.sequences.{feature.name}" if feature.history_of else "data.sparse"


def fault_in_values(found: pa.Schema, name: str) -> str:
    """Why the values of a column can have no vocabulary, in words; empty if they can."""
    kind, missing = kind_of(found, name)
    if kind is None:
        return missing
    values = _values_kind(kind.value_type) if is_list(kind) else kind
    types = pa.types
    good = _is_text(values) or types.is_integer(values) or types.is_boolean(values) or types.is_null(values)
    return "" if good else f"column {name} is {kind}, neither text nor whole numbers"


def _sparse_mistakes(
    columns: ColumnMap, found: pa.Schema, feature: SparseFeature, kind: pa.DataType
) -> Iterator[tuple[str, str]]:
    ids = _values_kind(kind.value_type) if is_list(kind) else kind
    key = _option(feature)
    if columns.texts and feature.name in columns.texts:
        if fault := fault_in_values(found, feature.name):
            yield "data.vocabulary.columns", fault
            return
    elif not is_number(ids):
        held = f"lists of {_named(ids)}" if is_list(kind) else _named(ids)
        message = f"column {feature.name} is {held}, not ids: encode its values to integers 0 .. first"
        named = columns.texts is not None and _is_text(ids) and not feature.history_of
        yield key, f"{message}, or name it in data.vocabulary.columns" if named else message
        return
    if feature.history_of and not is_list(kind) and not pa.types.is_null(kind):
        yield key, f"column {feature.name} holds one id a row ({kind}), and a history is a list of ids"
    elif feature.hotness > 1 and not is_list(kind) and not pa.types.is_null(kind):
        message = f"column {feature.name} holds one id a row ({kind}), not lists: hotness {feature.hotness} must be 1"
        yield "data.hotness", message


def _weight_mistakes(schema: Schema, found: pa.Schema) -> Iterator[tuple[str, str]]:
    if name := schema.sample_weight:
        kind, missing = kind_of(found, name)
        if missing or kind is None:
            yield "data.sample_weight", missing
        elif not is_number(kind):
            yield "data.sample_weight", f"column {name} is {_named(kind)}, not numbers: a sample has one weight"
    for feature in schema.sparse:
        if not feature.weights:
            continue
        kind, missing = kind_of(found, feature.weights)
        ids, _ = kind_of(found, feature.name)
        if missing or kind is None:
            yield "data.id_weights", missing
            continue
        if not is_number(_values_kind(kind.value_type) if is_list(kind) else kind):
            yield "data.id_weights", f"column {feature.weights} is {_named(kind)}, not numbers: an id has one weight"
        elif (
            ids is not None
            and not pa.types.is_null(kind)
            and not pa.types.is_null(ids)
            and is_list(kind) != is_list(ids)
        ):
            message = (
                f"column {feature.weights} is {kind}, but {feature.name} is {ids}: both hold lists, or neither does"
            )
            yield "data.id_weights", message


def is_number(kind: pa.DataType) -> bool:
    """Whether the values of this type are numbers or nulls; which of them are ids, is seen when they are read."""
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)  # nulls alone, as pandas and pyarrow write them
    )


def _named(kind: pa.DataType) -> str:
    """A type as people call it."""
    return f"text ({kind})" if _is_text(kind) else str(kind)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _nearest(name: str, names: Sequence[str]) -> str:
    if found := did_you_mean(name, names, cutoff=0.65):
        return f"; {found}"
    shown = ", ".join(names[:8]) + (", .." if len(names) > 8 else "")
    return f"; there are {shown}" if names else "; it has no columns"
