"""Which row of a table is which row of another training's, or why that cannot be told: decided once a table.

Rows of one column's ids are those of the same raw value, where both trainings' data say which value each id is. Rows that
several values share (hashed ids, a table of several columns) and rows of vocabularies that are known by a digest alone can
only be the same ones by number, so that all that leads to them has to be the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dlrm.checkpoint.reader import Reader
from dlrm.checkpoint.tensors import weight_name
from dlrm.config import Config
from dlrm.config.data import DataConfig, PackedData, ParquetData
from dlrm.config.data.packed import MultiHotFiles, OneHot
from dlrm.config.model import FrequencyCapped, GrowingEmbedding, HashedEmbedding, QuotientRemainder
from dlrm.data.packed.raw_encoding import categories_of_data
from dlrm.data.raw.raw_rows import Int64s
from dlrm.data.raw.row_map import NO_ROW, fault_in_match, matched_rows
from dlrm.data.raw.vocabulary import Categories
from dlrm.data.source import Source
from dlrm.errors import CheckpointError, DataError
from dlrm.format import escaped
from dlrm.lookups.plan import Lookups
from dlrm.lookups.rule import IDS, Rule, hash_keys
from dlrm.lookups.shared import table_of_features
from dlrm.table_names import state_name
from dlrm.train.checkpointing.load import saved_config
from dlrm.train.checkpointing.vocabularies import saved_vocabularies

_UNKNOWN = ""  # in place of the digest of a vocabulary that a checkpoint does not have
_BY_NUMBER = "(warm_start.rows ids takes rows by number)"


@dataclass(frozen=True)
class _Data:
    """How a training makes ids: by column its categories, or a digest of its vocabulary, as far as the data say."""

    categories: Mapping[str, Categories] | None
    digests: Mapping[str, str]


class RowMatching:
    """Of the tables of a new training and a checkpoint of another one.

    Args:
        config: of the new training; lookups: of its model.
        reader: of the checkpoint; train: the new training's samples.

    Raises:
        CheckpointError: the checkpoint does not say by which data it was trained.
        DataError: these are not there any more.
    """

    def __init__(self, config: Config, lookups: Lookups, reader: Reader, train: Source) -> None:
        self._asked, self._here = config.warm_start.rows, config.model
        self._saved = saved_config(reader.checkpoint)
        self._reader = reader
        table_of, _ = table_of_features(config.model, lookups.features)
        self._rules = {lookup.table: lookup.rule for lookup in lookups.lookups}
        self._columns: dict[str, list[str]] = {}
        self._base: dict[str, str] = {}
        for lookup in lookups.lookups:
            column = lookups.features.sparse[lookup.feature].name
            self._base[lookup.table] = table_of[column]
            self._columns.setdefault(lookup.table, []).append(column)
        self._of_data = None if self._asked == "ids" else _both(config, self._saved, reader, train)

    def fault(self, name: str, rows: int) -> str:
        """Why no row of a table here, which has so many, can be taken over; empty if they can.

        The checkpoint has a table of this name.
        """
        return self._fault_of_rule(name, rows) or self._fault_of_values(name, rows)

    def rows(self, name: str, rows: int) -> tuple[Int64s, str]:
        """Of each row of a table without fault the one in the checkpoint, or ``NO_ROW``, and how they were matched."""
        if pair := self._by_value(name):
            found_R = np.full(rows, NO_ROW, np.int64)
            matched_R = matched_rows(*pair)
            found_R[: len(matched_R)] = matched_R
            return found_R, "value"
        row_R = np.arange(rows)
        return np.where(row_R < self._stored_rows(name), row_R, NO_ROW), "row number"

    def _stored_rows(self, name: str) -> int:
        return self._reader.tensors[weight_name(state_name(name))].shape[0]

    def _fault_of_rule(self, name: str, rows: int) -> str:
        base, called = self._base[name], f"table {escaped(name)}"
        here, there = (model.embedding_of(base) for model in (self._here, self._saved.model))
        if isinstance(here, GrowingEmbedding) or isinstance(there, GrowingEmbedding):
            where = "here" if isinstance(here, GrowingEmbedding) else "in the checkpoint"
            return f"{called} grows {where}, and which id has which of its rows is not carried over"
        rule, stored = self._rules[name], self._stored_rule(name)
        # A table with exactly as many rows as ids are hashed to may have single ids: as here, if it is configured alike.
        if rule == stored or (rule == IDS and here == there and rows == self._stored_rows(name)):
            return ""
        return f"{called} has rows of {_named(stored)} in the checkpoint, of {_named(rule)} here"

    def _stored_rule(self, name: str) -> Rule:
        """How ids became rows of a table of the checkpoint, by its configuration and what it has of tables."""
        base, rows = self._base[name], self._stored_rows(name)
        match kind := self._saved.model.embedding_of(base):
            case HashedEmbedding() if rows >= (kind.rows or 0) and kind.ids_per_row != 1:
                if kind.hash == "mixed":
                    return Rule("hash", rows, hash_keys(base, kind.functions))
                return Rule("remainder", rows)
            case FrequencyCapped() if rows >= kind.rows + kind.tail_rows:
                return Rule("hash", kind.tail_rows, hash_keys(base, 1), first=kind.rows)
            case QuotientRemainder() if name != base:
                remainders = self._reader.tensors.get(weight_name(state_name(f"{base}_remainder")))
                size = 1 if remainders is None else remainders.shape[0]
                return Rule("quotient" if name == f"{base}_quotient" else "remainder", size)
        return IDS

    def _by_value(self, name: str) -> tuple[Categories, Categories] | None:
        """How a table's values become rows here and there, where rows are matched by value."""
        of_data, columns = self._of_data, self._columns[name]
        if of_data is None or len(columns) > 1 or self._rules[name] != IDS:
            return None
        here, there = ((data.categories or {}).get(columns[0]) for data in of_data)
        return None if here is None or there is None else (here, there)

    def _fault_of_values(self, name: str, rows: int) -> str:
        if self._of_data is None:
            return ""
        called = f"table {escaped(name)}"
        for column in self._columns[name]:
            if fault := self._fault_of_column(column, called):
                return fault
        pair = self._by_value(name)
        if pair and (pair[0].rows > rows or pair[1].rows > self._stored_rows(name)):
            return f"{called} has fewer rows than its vocabulary, which several values share"
        if pair:
            return ""
        for column in self._columns[name]:
            here, there = ((data.categories or {}).get(column) for data in self._of_data)
            if here is not None and there is not None and not _same(here, there):
                return (
                    f"{called} has rows that several values share, and column {escaped(column)} another vocabulary "
                    f"{_BY_NUMBER}"
                )
        return ""

    def _fault_of_column(self, column: str, called: str) -> str:
        """Why ids of a column cannot be told to be the same values."""
        assert self._of_data is not None
        digests = [data.digests.get(column) for data in self._of_data]
        if digests[0] is not None or digests[1] is not None:
            if digests[0] == digests[1]:
                return ""
            how = "another vocabulary of text than in the checkpoint, or is not known to have the same"
            return f"{called}: column {escaped(column)} has {how} {_BY_NUMBER}"
        here, there = ((data.categories or {}).get(column) for data in self._of_data)
        if here is None and there is None:
            return f"{called}: neither data set says which value each row is" if self._asked == "values" else ""
        if here is None or there is None:
            where = "the checkpoint's data do" if there is None else "the data here do"
            return f"{called}: {where} not say which value each row is {_BY_NUMBER}"
        fault = fault_in_match(here, there)
        return f"{called} {fault}" if fault else ""


def _named(rule: Rule) -> str:
    match rule.kind:
        case "id":
            return "single ids"
        case "hash":
            after = f" from id {rule.first:,} on" if rule.first else ""
            return f"ids hashed over {rule.size:,} ({len(rule.keys)} functions){after}"
        case _:
            return f"the {rule.kind} of ids by {rule.size:,}"


def _both(config: Config, saved: Config, reader: Reader, train: Source) -> tuple[_Data, _Data]:
    asked = config.warm_start
    data: DataConfig = PackedData(path=asked.data) if asked.data else saved.data
    try:
        there = categories_of_data(data)
    except DataError as error:
        hint = "name a packed data set with these vocabularies (warm_start.data), or take rows by number (rows ids)"
        raise DataError(
            error.path, f"{error.problem}: it says which value each row of the checkpoint is", hint=hint
        ) from None
    here = categories_of_data(config.data, train)
    for name, made in (("data.multi_hot", _made(config.data)), ("the checkpoint's data.multi_hot", _made(data))):
        if made and (here is not None or there is not None) and not _alike(here, there):
            message = (
                f"{name} makes ids of ids, which mean something else under another vocabulary; use warm_start.rows ids"
            )
            raise CheckpointError(reader.checkpoint.path, message)
    digests: dict[str, str] = {}
    if not asked.data:
        columns = data.vocabulary.columns if isinstance(data, ParquetData) else ()
        digests = dict.fromkeys(columns, _UNKNOWN) | (saved_vocabularies(reader.checkpoint) or {})
    return _Data(here, train.vocabularies()), _Data(there, digests)


def _made(data: DataConfig) -> bool:
    return isinstance(data, PackedData) and not isinstance(data.multi_hot, OneHot | MultiHotFiles)


def _alike(here: Mapping[str, Categories] | None, there: Mapping[str, Categories] | None) -> bool:
    """Whether every row means the same in both."""
    if here is None or there is None or list(here) != list(there):
        return False
    return all(_same(one, there[name]) for name, one in here.items())


def _same(one: Categories, other: Categories) -> bool:
    if one.rows != other.rows or fault_in_match(one, other):
        return False
    return np.array_equal(matched_rows(one, other), np.arange(one.rows))
