"""The preprocessing of a configured data set: what an export is to carry, so that raw rows become what they were in it."""

from __future__ import annotations

from dlrm.config.data import CriteoTsvData, DataConfig, PackedData, ParquetData
from dlrm.config.data.packed import BadRows, HashedMultiHot, MlperfMultiHot
from dlrm.data.multi_hot.dataset import MultiHotSource
from dlrm.data.packed.raw_encoding import encoding_of_data
from dlrm.data.parquet.dataset import ParquetSource
from dlrm.data.raw.criteo_tsv import CriteoTsvSource
from dlrm.data.source import Dataset, Source
from dlrm.errors import ConfigError
from dlrm.inference.raw.criteo import CriteoPreprocessing
from dlrm.inference.raw.encoded import EncodedPreprocessing
from dlrm.inference.raw.encoding_record import criteo_record
from dlrm.inference.raw.preprocessing import Preprocessing
from dlrm.inference.raw.record import MOST_HOTNESS, MOST_IDS, BagsRecord, Beyond, EncodedRecord, IdColumnRecord
from dlrm.schema import Schema


def preprocessing_of(config: DataConfig, dataset: Dataset) -> Preprocessing:
    """The preprocessing by which raw rows become the features that they have in a data set.

    Args:
        config: the section ``data`` of the configuration.
        dataset: that was built from it.

    Raises:
        DataError: of packed data, a vocabulary is missing or damaged.
        ConfigError: a row has more ids than exports take.
    """
    source, schema = dataset.train, dataset.schema
    if schema.ids_per_sample > MOST_IDS or max(feature.hotness for feature in schema.sparse) > MOST_HOTNESS:
        message = f"has more ids a sample than exports take: {MOST_HOTNESS:,} of a feature, {MOST_IDS:,} in all"
        raise ConfigError.at("data", message)
    match config:
        case CriteoTsvData():
            assert isinstance(source, CriteoTsvSource)
            return CriteoPreprocessing(criteo_record(source.encoding, tasks=schema.tasks), source.encoding)
        case PackedData():
            return _of_packed(config, source)
        case ParquetData():
            assert isinstance(source, ParquetSource)
            return EncodedPreprocessing(
                _encoded(
                    schema,
                    beyond=_beyond(config.bad_rows),
                    lists=source.columns.lists,
                    dense_missing=config.dense_missing,
                    null_ids=True,
                )
            )
    return EncodedPreprocessing(_encoded(schema))


def _of_packed(config: PackedData, source: Source) -> Preprocessing:
    bags, one_hot, beyond = None, source.schema, _beyond(config.bad_rows)
    made = config.multi_hot
    if isinstance(made, HashedMultiHot | MlperfMultiHot):
        assert isinstance(source, MultiHotSource)
        one_hot = source.source.schema
        bags = BagsRecord(kind=made.kind, hotness=made.hotness, distribution=made.distribution, seed=made.seed)
    encoding = encoding_of_data(config) if made.kind != "files" else None
    if encoding is None:
        return EncodedPreprocessing(_encoded(one_hot, beyond=beyond, bags=bags))
    rows = [feature.rows for feature in one_hot.sparse]
    record = criteo_record(encoding, tasks=one_hot.tasks, rows=rows, beyond=beyond, bags=bags)
    return CriteoPreprocessing(record, encoding)


def _encoded(
    schema: Schema,
    *,
    beyond: Beyond = "error",
    lists: frozenset[str] | None = None,
    dense_missing: float | None = None,
    null_ids: bool = False,
    bags: BagsRecord | None = None,
) -> EncodedRecord:
    """The record of columns that hold numbers and ids; without ``lists``, those are lists that can hold several."""
    return EncodedRecord(
        tasks=schema.tasks,
        beyond=beyond,
        bags=bags,
        dense=schema.dense,
        dense_missing=dense_missing,
        sparse=tuple(
            IdColumnRecord(
                name=feature.name,
                rows=feature.rows,
                hotness=feature.hotness,
                lists=feature.hotness > 1 if lists is None else feature.name in lists,
            )
            for feature in schema.sparse
        ),
        null_ids=null_ids,
    )


def _beyond(bad_rows: BadRows) -> Beyond:
    # A sample that is skipped is none that was trained on: there is no answer to it.
    return "error" if bad_rows == "skip" else bad_rows
