"""The embedding tables: from the configuration and the schema to torchrec's EmbeddingBagCollection.

Tables whose rows are looked up one by one (docs/sequences.md) are an EmbeddingCollection beside it.

What is looked up of a sample, in which tables, is :mod:`dlrm.lookups`' to say. Where a table's name is no name for a
module, torchrec knows it by another (:mod:`dlrm.table_names`).

fbgemm's kernels take rows of certain widths only. Rows of another width are padded with columns of zeros, which stay zero:
nothing looks at them, so that their gradients are zeros. A *padded width* is that of the memory; without the word the width
is the configured one, with which all is computed, counted and saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from dlrm.config.model import ModelConfig
from dlrm.errors import ConfigError
from dlrm.layers.combined import build_fields
from dlrm.layers.pooling import PooledColumns
from dlrm.layers.separate_rows import SeparateRows
from dlrm.lookups.plan import Lookups, Table, lookups_of
from dlrm.schema import Schema
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
            vector among the others. rows: makes of what these return the rows of each of these features.
        lookups: what is looked up in the tables, and how it comes from ids.
    """

    tables: EmbeddingBagCollection
    pooling: PooledColumns
    fields: nn.Module
    dims: tuple[int, ...]
    sequence_tables: EmbeddingCollection | None
    rows: SeparateRows
    lookups: Lookups


def build_embedding(
    config: ModelConfig, schema: Schema, *, device: str | torch.device = "meta", half: bool = False
) -> Embedding:
    """The tables and what follows them.

    Args:
        config: kinds and widths.
        schema: of the data.
        device: where the tables live. On ``meta`` they have no memory: DistributedModelParallel gives each rank its
            shards, which :func:`dlrm.models.init.fill_table_block` then fills.
        half: whether their weights are float16.

    Raises:
        ConfigError: see :func:`dlrm.lookups.plan.lookups_of`.
    """
    lookups = lookups_of(config, schema)
    return Embedding(
        tables=build_tables(lookups, device=device, half=half),
        pooling=build_pooling(lookups),
        fields=build_fields([(field.widths, field.operation, field.dim) for field in lookups.fields]),
        dims=tuple(field.dim for field in lookups.fields),
        sequence_tables=build_sequence_tables(lookups, device=device, half=half),
        rows=SeparateRows({lookup.name: lookups.widths[lookup.table] for lookup in lookups.unpooled}),
        lookups=lookups,
    )


def build_tables(
    lookups: Lookups, *, device: str | torch.device = "meta", half: bool = False
) -> EmbeddingBagCollection:
    """The tables as one module: KeyedJaggedTensor of rows -> KeyedTensor of summed embeddings, float32 (B, X)."""
    return EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(**_options(table, half=half), pooling=PoolingType.SUM)  # PooledColumns makes the mean
            for table in lookups.tables
            if table.pooled
        ],
        is_weighted=lookups.features.ids_have_weights,
        device=torch.device(device),
    )


def build_sequence_tables(
    lookups: Lookups, *, device: str | torch.device = "meta", half: bool = False
) -> EmbeddingCollection | None:
    """The tables whose rows are not summed: KeyedJaggedTensor of rows -> a JaggedTensor of float32 (R, D) by feature.

    None where there are none.
    """
    tables = [EmbeddingConfig(**_options(table, half=half)) for table in lookups.tables if not table.pooled]
    return EmbeddingCollection(tables=tables, device=torch.device(device)) if tables else None


def build_pooling(lookups: Lookups) -> PooledColumns:
    """What turns the output of the tables into one tensor."""
    widths = lookups.widths
    dims = [widths[lookup.table] for lookup in lookups.pooled]
    return PooledColumns(
        names=[lookup.name for lookup in lookups.pooled],
        dims=dims,
        mean=[lookup.mean for lookup in lookups.pooled],
        padded_dims=[padded_width(dim) for dim in dims],
        rows_per_id=[lookup.rule.rows_per_id for lookup in lookups.pooled],
    )


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
        message = f"is {config.embedding_dim}, but a row of {config.kind} holds {holds} here: it needs {columns}"
        raise ConfigError.at("model.embedding_dim", message)


def padded_width(dim: int) -> int:
    """The columns that rows of this width have in memory."""
    return dim + -dim % DIM_MULTIPLE


def _options(table: Table, *, half: bool) -> dict[str, Any]:
    """What torchrec must know of a table."""
    return {
        "name": module_name(table.name),
        "feature_names": list(table.lookups),
        "num_embeddings": table.rows,
        "embedding_dim": padded_width(table.dim),
        "data_type": DataType.FP16 if half else DataType.FP32,
    }
