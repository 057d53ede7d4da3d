"""Where samples come from. Each source is a variant chosen by ``kind``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dlrm.config.data.packed import PackedData
from dlrm.config.data.parquet import ParquetData
from dlrm.config.data.raw import (
    CriteoTsvData,
    DenseTransform,
    HashedCategories,
    IdCategories,
    Split,
    VocabularyCategories,
)
from dlrm.config.data.synthetic import PlantedData, RandomData

DataConfig = Annotated[
    PlantedData | RandomData | CriteoTsvData | PackedData | ParquetData, Field(discriminator="kind")
]  # fmt: skip

__all__ = [
    "CriteoTsvData",
    "DataConfig",
    "DenseTransform",
    "HashedCategories",
    "IdCategories",
    "PackedData",
    "ParquetData",
    "PlantedData",
    "RandomData",
    "Split",
    "VocabularyCategories",
]
