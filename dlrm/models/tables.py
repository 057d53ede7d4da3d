"""The embedding tables: from the configuration and the schema to torchrec's EmbeddingBagCollection.

Each sparse feature has one table, and both have the feature's name; where that is no name for a module, torchrec knows the
table by another (:mod:`dlrm.table_names`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dlrm.config.model import ModelConfig, TableOverride
from dlrm.config.model.growing import GrowingEmbedding
from dlrm.errors import ConfigError, ConfigProblem
from dlrm.format import did_you_mean
from dlrm.layers.pooling import PooledColumns
from dlrm.schema import Schema, SparseFeature
from dlrm.table_names import module_name

DIM_MULTIPLE = 4
"""fbgemm's fused kernels take only rows whose width is a multiple of this."""


@dataclass(frozen=True)
class Embedding:
    """What turns the ids of a sample into vectors, one a sparse feature: :meth:`dlrm.models.base.Model.vectors`.

    Attributes:
        tables: all tables. pooling: puts what they return side by side.
        fields: makes of these columns the vectors of the features.
        dims: widths of the vectors, in the order of ``schema.sparse``.
    """

    tables: EmbeddingBagCollection
    pooling: PooledColumns
    fields: nn.Module
    dims: tuple[int, ...]


def build_embedding(config: ModelConfig, schema: Schema, *, device: str | torch.device = "meta") -> Embedding:
    """The tables and what follows them; see :func:`build_tables`.

    Raises:
        ConfigError: see :func:`embedding_bag_configs`.
    """
    tables = build_tables(config, schema, device=device)
    dims = tuple(table.embedding_dim for table in tables.embedding_bag_configs())
    return Embedding(tables, build_pooling(config, schema), nn.Identity(), dims)


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
    return [_table(config, feature) for feature in schema.sparse]


def check_row_width(config: ModelConfig, columns: int, holds: str) -> None:
    """See that rows have room for what a model keeps in them.

    Args:
        config: of the model.
        columns: what that takes at least.
        holds: what that is, in words.

    Raises:
        ConfigError: they have not.
    """
    if config.embedding_dim < columns:
        width = columns + -columns % DIM_MULTIPLE
        message = f"is {config.embedding_dim}, but a row of {config.kind} holds {holds} here: it needs {width}"
        raise ConfigError.at("model.embedding_dim", message)


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
    tables = embedding_bag_configs(config, schema)
    return EmbeddingBagCollection(tables=tables, is_weighted=schema.ids_have_weights, device=torch.device(device))


def build_pooling(config: ModelConfig, schema: Schema) -> PooledColumns:
    """What turns the output of the tables into one tensor."""
    names = [feature.name for feature in schema.sparse]
    return PooledColumns(
        names=names,
        dims=[table.embedding_dim for table in embedding_bag_configs(config, schema)],
        mean=[(_override(config, name).pooling or config.pooling) == "mean" for name in names],
    )


def _table(config: ModelConfig, feature: SparseFeature) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name=module_name(feature.name),
        feature_names=[feature.name],
        num_embeddings=_rows(config, feature),
        embedding_dim=_override(config, feature.name).embedding_dim or config.embedding_dim,
        pooling=PoolingType.SUM,  # PooledColumns makes the mean; it says why
    )


def with_table_rows(config: ModelConfig, schema: Schema) -> Schema:
    """The schema with the rows that tables have in the place of how many ids the data may have."""
    return replace(schema, sparse=tuple(replace(feature, rows=_rows(config, feature)) for feature in schema.sparse))


def _rows(config: ModelConfig, feature: SparseFeature) -> int:
    embedding = config.embedding_of(feature.name)
    return embedding.rows if isinstance(embedding, GrowingEmbedding) else feature.rows


def _override(config: ModelConfig, name: str) -> TableOverride:
    return config.tables.get(name, TableOverride())


def _unknown_tables(config: ModelConfig, schema: Schema) -> Iterator[ConfigProblem]:
    known = [feature.name for feature in schema.sparse]
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
