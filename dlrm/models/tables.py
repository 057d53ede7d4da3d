"""The embedding tables: from the configuration and the schema to torchrec's EmbeddingBagCollection.

Each sparse feature has one table, and both have the feature's name; where that is no name for a module, torchrec knows the
table by another (:mod:`dlrm.table_names`). Features whose rows a model looks up one by one are in a collection of their own
(:mod:`dlrm.models.sequences`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from dlrm.config.model import ModelConfig, TableOverride
from dlrm.errors import ConfigError, ConfigProblem
from dlrm.format import did_you_mean
from dlrm.layers.pooling import PooledColumns
from dlrm.models.sequences import build_sequence_tables, pooled_features, table_features
from dlrm.schema import Schema, SparseFeature
from dlrm.table_names import module_name

DIM_MULTIPLE = 4
"""fbgemm's fused kernels take only rows whose width is a multiple of this."""


@dataclass(frozen=True)
class Embedding:
    """What turns the ids of a sample into vectors, one a sparse feature: :meth:`dlrm.models.base.Model.vectors`.

    Attributes:
        tables: all tables but those of ``sequence_tables``. pooling: puts what they return side by side.
        fields: makes of these columns the vectors of the features.
        dims: widths of the vectors, in the order of ``schema.sparse``.
        sequence_tables: tables whose rows are looked up one by one, where the model has some; their features have no
            vector among the others.
    """

    tables: EmbeddingBagCollection
    pooling: PooledColumns
    fields: nn.Module
    dims: tuple[int, ...]
    sequence_tables: EmbeddingCollection | None = None


def build_embedding(config: ModelConfig, schema: Schema, *, device: str | torch.device = "meta") -> Embedding:
    """The tables and what follows them; see :func:`build_tables`.

    Raises:
        ConfigError: see :func:`embedding_bag_configs`.
    """
    tables = build_tables(config, schema, device=device)
    dims = tuple(table.embedding_dim for table in tables.embedding_bag_configs())
    pooling, unpooled = build_pooling(config, schema), build_sequence_tables(config, schema, device=device)
    return Embedding(tables, pooling, nn.Identity(), dims, unpooled)


def embedding_bag_configs(config: ModelConfig, schema: Schema) -> list[EmbeddingBagConfig]:
    """What torchrec must know of each table, in the order of ``schema.sparse``.

    Raises:
        ConfigError: overrides for tables that the data does not have, widths that fbgemm does not take, or data
            without sparse features.
    """
    problems = [*_unknown_tables(config, schema), *_bad_dims(config)]
    if not schema.sparse:
        problems.append(ConfigProblem("data", "", "has no sparse feature: this model needs at least one table"))
    if problems:
        raise ConfigError(problems)
    return [_table(config, feature) for feature in pooled_features(config, schema)]


def build_tables(config: ModelConfig, schema: Schema, *, device: str | torch.device = "meta") -> EmbeddingBagCollection:
    """The tables as one module: KeyedJaggedTensor -> KeyedTensor of summed embeddings, float32 (B, X).

    Args:
        config: widths.
        schema: names and rows.
        device: where the weights live. On ``meta`` they have no memory: DistributedModelParallel gives each rank its
            shards, which :func:`dlrm.models.init.fill_table_block` then fills.

    Raises:
        ConfigError: see :func:`embedding_bag_configs`.
    """
    return EmbeddingBagCollection(tables=embedding_bag_configs(config, schema), device=torch.device(device))


def build_pooling(config: ModelConfig, schema: Schema) -> PooledColumns:
    """What turns the output of the tables into one tensor."""
    names = [feature.name for feature in pooled_features(config, schema)]
    return PooledColumns(
        names=names,
        dims=[table.embedding_dim for table in embedding_bag_configs(config, schema)],
        mean=[(_override(config, name).pooling or config.pooling) == "mean" for name in names],
    )


def _table(config: ModelConfig, feature: SparseFeature) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name=module_name(feature.name),
        feature_names=[feature.name],
        num_embeddings=feature.rows,
        embedding_dim=_override(config, feature.name).embedding_dim or config.embedding_dim,
        pooling=PoolingType.SUM,  # PooledColumns makes the mean; it says why
    )


def _override(config: ModelConfig, name: str) -> TableOverride:
    return config.tables.get(name, TableOverride())


def _unknown_tables(config: ModelConfig, schema: Schema) -> Iterator[ConfigProblem]:
    known = [feature.name for feature in table_features(config, schema)]
    for name in config.tables:
        if name not in known:
            hint = did_you_mean(name, known, cutoff=0.5) or f"there are {len(known)}: {_shortened(known)}"
            yield ConfigProblem(f"model.tables.{name}", "", f"the data has no such table; {hint}")


def _bad_dims(config: ModelConfig) -> Iterator[ConfigProblem]:
    dims = {"model.embedding_dim": config.embedding_dim}
    dims |= {
        f"model.tables.{name}.embedding_dim": table.embedding_dim
        for name, table in config.tables.items()
        if table.embedding_dim is not None
    }
    for key, dim in dims.items():
        if dim % DIM_MULTIPLE:
            larger = dim + -dim % DIM_MULTIPLE
            message = f"is {dim}, fbgemm's kernels take multiples of {DIM_MULTIPLE} only: {larger} is the next"
            yield ConfigProblem(key, "", message)


def _shortened(names: list[str], shown: int = 4) -> str:
    return ", ".join(names) if len(names) <= shown else f"{', '.join(names[: shown - 1])}, ..., {names[-1]}"
