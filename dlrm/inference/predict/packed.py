"""Packed data sets as inputs: rows that are encoded already, as the model's training data were."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import torch

from dlrm.config.data.packed import PartSplit
from dlrm.config.predict import PredictConfig
from dlrm.data.multi_hot.dataset import make_bags
from dlrm.data.packed.dataset import choose_split
from dlrm.data.packed.folder import PackedFolder, open_packed
from dlrm.data.packed.raw_encoding import recorded_encoding
from dlrm.data.packed.remote import is_remote
from dlrm.data.packed.source import PackedSource
from dlrm.data.packed.split import Span
from dlrm.data.source import Samples
from dlrm.errors import DataError
from dlrm.format import did_you_mean, escaped
from dlrm.inference.features import Features, check_features
from dlrm.inference.predict.inputs import Block, Decoded, Input, Wanted, checked_labels, moved
from dlrm.inference.raw import Preprocessing
from dlrm.inference.raw.criteo import CriteoPreprocessing
from dlrm.inference.raw.encoding_record import criteo_record, vocabulary_arrays
from dlrm.schema import Schema


class PackedInput(Input):
    """Rows of a packed data set.

    Args:
        config: says which rows, which labels and what is carried.
        path: folder or URL.
        preprocessing: of the export.
        rows_per_block: of each block but the last.

    Raises:
        DataError, ConfigError: the data set is not whole, or not of the model's columns or encoding.
    """

    def __init__(self, config: PredictConfig, path: str, preprocessing: Preprocessing, rows_per_block: int) -> None:
        self.path, self._rows_per_block = path, rows_per_block
        self._schema, record = preprocessing.schema, preprocessing.record
        made = record.bags is not None
        in_files = not made and self._schema.ids_per_sample > len(self._schema.sparse)
        folder = open_packed(
            path,
            rows=[1],  # sizes of tables are the export's
            may_be_smaller=True,
            multi_hot=in_files,
        )
        _check_columns(folder, self._schema, path, hotness=in_files)
        _check_encoding(folder, preprocessing, path)
        self._source = PackedSource(path, folder.schema, folder.parts, _spans(folder, config.split))
        self._bags = None if record.bags is None else make_bags(self._schema, record.bags.options())
        self._preprocessing = preprocessing
        self.labelled = _has_labels(config, folder.schema, self._schema, path)
        self._carry = _carried(config.carry, folder.schema, path)
        self.carried = tuple(field for field, _ in self._carry)
        self.rows = self._source.num_samples
        self.blocks = -(-self.rows // rows_per_block)
        files = [asdict(file) for file in self._source.fingerprint()]
        self.stamp = {"path": _absolute(path), "split": config.split, "files": files}

    def read(self, wanted: Wanted) -> Iterator[Block]:
        """See :meth:`Input.read`."""
        assert self.blocks is not None
        for index in filter(wanted, range(self.blocks)):
            first = index * self._rows_per_block
            yield PackedBlock(self, index, first, min(self._rows_per_block, self.rows - first))

    def samples(self, first: int, rows: int) -> Samples:
        """Consecutive rows, as they are stored."""
        return self._source.read(torch.arange(first, first + rows))

    def decode(self, first: int, rows: int) -> Decoded:
        """Consecutive rows; errors count from 1 with the first of them."""
        samples = self.samples(first, rows)
        ids_BS = samples.ids_BS if self._bags is None else self._bags.expand(samples.ids_BS)
        features = Features(samples.dense_BN, self._preprocessing.mended(ids_BS), samples.lengths_BF)
        check_features(features, self._schema, name=self.path)
        labels_BT = None
        if self.labelled:
            labels_BT = checked_labels(samples.labels_BT, self._schema.tasks, name=self.path)
        return Decoded(features, labels_BT)

    def columns(self, first: int, rows: int) -> list[pa.Array]:
        """The columns to carry."""
        if not self._carry:
            return []
        samples = self.samples(first, rows)
        return [_column(samples, field, place) for field, place in self._carry]

    def located(self, error: DataError, first: int) -> DataError:
        """The file and the row of it where a row from ``first`` on, counted from 1, has the error."""
        if error.row is None:
            return error
        path, row = self._source.locate(first + error.row - 1, error.column or "")
        return DataError(path, error.problem, row=row, column=error.column, hint=error.hint)


class PackedBlock(Block):
    """Rows of a data set from ``first`` on."""

    def __init__(self, owner: PackedInput, index: int, first: int, rows: int) -> None:
        super().__init__(index, rows)
        self._owner, self._first = owner, first

    def decode(self, rows: slice) -> Decoded:
        """See :meth:`Block.decode`."""
        try:
            return self._owner.decode(self._first + rows.start, rows.stop - rows.start)
        except DataError as error:
            raise moved(error, rows.start) from None

    def carried(self) -> list[pa.Array]:
        """See :meth:`Block.carried`."""
        return self._owner.columns(self._first, self.rows)

    def located(self, error: DataError) -> DataError:
        """See :meth:`Block.located`."""
        return self._owner.located(error, self._first)


def _check_columns(folder: PackedFolder, schema: Schema, path: str, *, hotness: bool) -> None:
    """See that the data set has the columns of the model."""
    kinds = (
        ("dense", folder.schema.dense, schema.dense),
        ("sparse", _names(folder.schema), _names(schema)),
    )
    for kind, found, wanted in kinds:
        if found == wanted:
            continue
        if len(found) != len(wanted):
            problem = f"has {len(found)} {kind} features, the model {len(wanted)}"
        else:
            mine, its = next(pair for pair in zip(found, wanted, strict=True) if pair[0] != pair[1])
            problem = f"has the {kind} feature {escaped(mine, 40)} where the model has {escaped(its, 40)}"
        raise DataError(path, problem, hint="give data that were prepared as the model's training data")
    for given, own in zip(folder.schema.sparse, schema.sparse, strict=True):
        if hotness and given.hotness != own.hotness:
            problem = f"has {given.hotness} ids a row, the model {own.hotness}"
            raise DataError(path, problem, column=given.name, hint="give data with bags of the model's sizes")


def _names(schema: Schema) -> tuple[str, ...]:
    return tuple(feature.name for feature in schema.sparse)


def _check_encoding(folder: PackedFolder, preprocessing: Preprocessing, path: str) -> None:
    """See that ids and numbers mean what they mean to the model, where both say what that is.

    Raises:
        DataError: they mean something else.
    """
    if folder.manifest is None or not isinstance(preprocessing, CriteoPreprocessing):
        return
    encoding = recorded_encoding(folder.manifest, folder.path)
    if encoding is None:
        return
    found, wanted = criteo_record(encoding, tasks=preprocessing.record.tasks), preprocessing.record
    other = ""
    if found.dense != wanted.dense:
        other = "its integers were transformed in another way"
    for mine, its in zip(found.categories, wanted.categories, strict=True):
        if mine != its and not other:
            other = f"categories of {escaped(mine.name, 40)} were numbered in another way"
    arrays = vocabulary_arrays(encoding)
    for name, values in preprocessing.arrays.items():
        if not other and not (name in arrays and torch.equal(arrays[name], values)):
            other = f"categories of {escaped(name.rpartition('.')[0], 40)} were numbered in another way"
    if other:
        hint = "predict from the raw files, which the export encodes as it must"
        raise DataError(path, f"was not encoded as the model's training data: {other}", hint=hint)


def _spans(folder: PackedFolder, split: str) -> tuple[Span, ...]:
    if split == "all":
        return tuple(Span(part.name, 0, part.rows) for part in folder.parts)
    spans: tuple[Span, ...] = getattr(choose_split(folder, PartSplit(), "split"), split)
    if not any(map(len, spans)):
        raise DataError(folder.path, f"has no {split} rows", hint="choose another split")
    return spans


def _has_labels(config: PredictConfig, found: Schema, wanted: Schema, path: str) -> bool:
    if config.labels == "false":
        return False
    if found.tasks != wanted.tasks and config.labels == "true":
        problem = f"has labels of {escaped(', '.join(found.tasks))}, the model's tasks are {', '.join(wanted.tasks)}"
        raise DataError(path, problem, hint="set labels to auto or false")
    return found.tasks == wanted.tasks


def _carried(names: Sequence[str], schema: Schema, path: str) -> list[tuple[pa.Field, tuple[str, int, int]]]:
    """The columns to carry, and of which array, where in it and how many columns of it."""
    places: dict[str, tuple[pa.DataType, tuple[str, int, int]]] = {}
    places |= {name: (pa.int8(), ("labels", at, 1)) for at, name in enumerate(schema.tasks)}
    places |= {name: (pa.float32(), ("dense", at, 1)) for at, name in enumerate(schema.dense)}
    at = 0
    for feature in schema.sparse:
        one = feature.hotness == 1
        places[feature.name] = (pa.int64() if one else pa.list_(pa.int64())), ("ids", at, feature.hotness)
        at += feature.hotness
    found = []
    for name in names:
        if name not in places:
            hint = did_you_mean(name, places) or f"there are {escaped(', '.join(places))}"
            raise DataError(path, f"has no column {escaped(name, 40)} to carry", hint=hint)
        kind, place = places[name]
        found.append((pa.field(name, kind), place))
    return found


def _column(samples: Samples, field: pa.Field, place: tuple[str, int, int]) -> pa.Array:
    kind, at, width = place
    if kind == "labels":
        labels_B = samples.labels_BT[:, at].numpy()
        return pa.array(np.nan_to_num(labels_B).astype(np.int8), mask=np.isnan(labels_B))
    if kind == "dense":
        return pa.array(samples.dense_BN[:, at].numpy())
    ids_BL = samples.ids_BS[:, at : at + width].numpy().astype(np.int64)
    if width == 1:
        return pa.array(ids_BL[:, 0])
    offsets = pa.array(np.arange(0, ids_BL.size + 1, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(ids_BL.reshape(-1)), type=field.type)


def _absolute(path: str) -> str:
    return path if is_remote(path) else os.path.abspath(path)
