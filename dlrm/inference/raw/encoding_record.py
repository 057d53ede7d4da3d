"""A fitted encoding as part of an export, and back: a record and its vocabularies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from dlrm.data.raw.dense_transform import DenseColumns, DenseConstants
from dlrm.data.raw.encoding import DenseEncoding, RawEncoding, TableDense
from dlrm.data.raw.log_table import LogTable
from dlrm.data.raw.vocabulary import NO_ID, Categories, DecimalIds, HashedIds, Vocabulary
from dlrm.errors import ExportError
from dlrm.inference.raw.record import (
    BagsRecord,
    Beyond,
    CategoryRecord,
    CriteoRecord,
    DecimalRecord,
    DenseColumnRecord,
    DenseRecord,
    HashedRecord,
    VocabularyRecord,
)

VOCABULARIES = "vocabularies.safetensors"
_HIGHEST_VALUE = 2**32 - 1
_AGAIN = "restore it or export the checkpoint again"


def criteo_record(
    encoding: RawEncoding,
    *,
    tasks: Sequence[str],
    rows: Sequence[int] | None = None,
    beyond: Beyond = "error",
    bags: BagsRecord | None = None,
) -> CriteoRecord:
    """The record of an encoding.

    Args:
        encoding: of the training data.
        tasks: names of the labels.
        rows: table sizes of the model, where they are not those of the encoding.
        beyond: what becomes of ids outside of these.
        bags: what makes several ids of one.
    """
    sparse = encoding.sparse
    of_buckets = zip(sparse[len(encoding.categories) :], encoding.buckets, strict=True)
    return CriteoRecord(
        tasks=tuple(tasks),
        beyond=beyond,
        bags=bags,
        dense=_dense_record(encoding),
        categories=tuple(_category_record(name, categories) for name, categories in encoding.categories.items()),
        buckets=tuple(_vocabulary_record(feature.name, vocabulary) for feature, vocabulary in of_buckets),
        rows=None if rows is None or tuple(rows) == tuple(feature.rows for feature in sparse) else tuple(rows),
    )


def vocabulary_arrays(encoding: RawEncoding) -> dict[str, torch.Tensor]:
    """The vocabularies of an encoding: ``<column>.values`` and, where ids do not ascend with them, ``<column>.ids``."""
    categories = [*encoding.categories.values(), *encoding.buckets]
    arrays = {}
    for feature, vocabulary in zip(encoding.sparse, categories, strict=True):
        if isinstance(vocabulary, Vocabulary):
            arrays[f"{feature.name}.values"] = torch.from_numpy(vocabulary.values_K.astype(np.int64))
            if vocabulary.ids_K is not None:
                arrays[f"{feature.name}.ids"] = torch.from_numpy(vocabulary.ids_K)
    return arrays


def encoding_of(record: CriteoRecord, arrays: Mapping[str, torch.Tensor]) -> RawEncoding:
    """The encoding that a record and its vocabularies describe.

    Raises:
        ExportError: they contradict each other or themselves.
    """
    names = tuple(column.name for column in record.dense.columns)
    if record.buckets and [bucket.name for bucket in record.buckets] != [f"{name}_bucket" for name in names]:
        raise ExportError("manifest.json", "buckets are not those of the integer columns", hint=_AGAIN)
    features = [*record.categories, *record.buckets]
    if len({*names, *(feature.name for feature in features)}) != len(names) + len(features):
        raise ExportError("manifest.json", "a column is listed twice", hint=_AGAIN)
    if record.rows is not None and len(record.rows) != len(features):
        raise ExportError("manifest.json", f"has {len(record.rows)} sizes of {len(features)} tables", hint=_AGAIN)
    categories = {column.name: _categories(column, arrays) for column in record.categories}
    if len({isinstance(ids, DecimalIds) for ids in categories.values()}) > 1:
        raise ExportError("manifest.json", "some categories are decimal ids and some are not", hint=_AGAIN)
    buckets = [_vocabulary(bucket, arrays) for bucket in record.buckets]
    return RawEncoding(names, _dense_encoding(record.dense), categories, buckets)


def _dense_record(encoding: RawEncoding) -> DenseRecord:
    dense = encoding.dense
    if isinstance(dense, TableDense):
        table = dense.transform
        columns = [DenseColumnRecord(name=name, missing=float(table.missing)) for name in encoding.dense_names]
        return DenseRecord(logarithm="preprocess", minimum=table.minimum, shift=table.shift, columns=tuple(columns))
    assert isinstance(dense, DenseColumns)  # there is no third
    columns = [
        DenseColumnRecord(name=name, missing=one.missing, mean=one.mean, deviation=one.deviation)
        for name, one in zip(encoding.dense_names, dense.constants, strict=True)
    ]
    return DenseRecord(logarithm="numpy", minimum=dense.minimum, shift=dense.shift, columns=tuple(columns))


def _dense_encoding(record: DenseRecord) -> DenseEncoding:
    if record.minimum + record.shift <= 0:
        raise ExportError("manifest.json", "minimum + shift is outside of the logarithm", hint=_AGAIN)
    if record.logarithm == "preprocess":
        if len({(column.missing, column.mean, column.deviation) for column in record.columns}) > 1:
            raise ExportError("manifest.json", "columns differ that preprocess makes alike", hint=_AGAIN)
        return TableDense(LogTable.of(record.minimum, record.shift, np.float32(record.columns[0].missing)))
    constants = [DenseConstants(column.missing, column.mean, column.deviation) for column in record.columns]
    return DenseColumns(record.minimum, record.shift, constants)


def _category_record(name: str, categories: Categories) -> CategoryRecord:
    if isinstance(categories, Vocabulary):
        return _vocabulary_record(name, categories)
    if isinstance(categories, HashedIds):
        return HashedRecord(name=name, rows=categories.rows)
    return DecimalRecord(name=name, rows=categories.rows)


def _vocabulary_record(name: str, vocabulary: Vocabulary) -> VocabularyRecord:
    return VocabularyRecord(
        name=name,
        rows=vocabulary.rows,
        missing=None if vocabulary.missing == NO_ID else vocabulary.missing,
        unseen=None if vocabulary.unseen == NO_ID else vocabulary.unseen,
        first=vocabulary.first,
        ascending=vocabulary.ids_K is None,
    )


def _categories(record: CategoryRecord, arrays: Mapping[str, torch.Tensor]) -> Categories:
    if isinstance(record, VocabularyRecord):
        return _vocabulary(record, arrays)
    if isinstance(record, HashedRecord):
        return HashedIds(record.name, record.rows)
    return DecimalIds(record.rows)


def _vocabulary(record: VocabularyRecord, arrays: Mapping[str, torch.Tensor]) -> Vocabulary:
    values_K = _array(f"{record.name}.values", arrays)
    ids_K = None if record.ascending else _array(f"{record.name}.ids", arrays)
    ascend = bool((values_K[1:] > values_K[:-1]).all())
    in_range = not len(values_K) or (values_K[0] >= 0 and values_K[-1] <= _HIGHEST_VALUE)
    if not (ascend and in_range):
        raise ExportError(VOCABULARIES, f"{record.name}.values are not ascending 32-bit values", hint=_AGAIN)
    missing, unseen = (NO_ID if one is None else one for one in (record.missing, record.unseen))
    vocabulary = Vocabulary(values_K.astype(np.uint32), ids_K, missing, unseen, record.first)  # half of the memory
    if vocabulary.rows != record.rows or max(missing, unseen) >= record.rows:
        problem = f"{record.name}: {len(values_K)} values and {record.rows} ids contradict each other"
        raise ExportError(VOCABULARIES, problem, hint=_AGAIN)
    if ids_K is not None and not np.array_equal(np.sort(ids_K), np.arange(record.first, record.rows)):
        raise ExportError(VOCABULARIES, f"{record.name}.ids are not those of its values", hint=_AGAIN)
    return vocabulary


def _array(name: str, arrays: Mapping[str, torch.Tensor]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    array = arrays.get(name)
    if array is None:
        raise ExportError(VOCABULARIES, f"holds no {name}", hint=_AGAIN)
    if array.dtype != torch.int64 or array.dim() != 1:
        raise ExportError(VOCABULARIES, f"{name} is {array.dtype} with {array.dim()} dimensions", hint=_AGAIN)
    return array.numpy()
