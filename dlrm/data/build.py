"""The data section of the configuration becomes the three splits."""

from __future__ import annotations

from dlrm.config.data import CriteoTsvData, DataConfig, PackedData, ParquetData, PlantedData, RandomData
from dlrm.data.raw.criteo_tsv import criteo_tsv_dataset
from dlrm.data.source import Dataset
from dlrm.data.synthetic.noise import noise_dataset
from dlrm.data.synthetic.planted import planted_dataset


def build_dataset(config: DataConfig) -> Dataset:
    """The three splits.

    Raises:
        DataError, ConfigError: what is wrong with the files or how they are to be split.
    """
    # A reader imports what it needs and no more: planted data starts without pyarrow.
    match config:
        case PlantedData():
            return planted_dataset(config)
        case RandomData():
            return noise_dataset(config)
        case CriteoTsvData():
            return criteo_tsv_dataset(config)
        case PackedData():
            from dlrm.data.packed.dataset import packed_dataset

            return packed_dataset(config)
        case ParquetData():
            from dlrm.data.parquet import parquet_dataset

            return parquet_dataset(config)
