"""From configuration and schema to a model."""

from __future__ import annotations

import torch

from dlrm.config.model import ModelConfig
from dlrm.model.dlrm import DLRM
from dlrm.model.init import initialise_dense, initialise_tables
from dlrm.model.interaction import build_interaction
from dlrm.model.mlp import MLP
from dlrm.model.tables import build_pooling, build_tables
from dlrm.schema import Schema


def build_model(
    config: ModelConfig, schema: Schema, *, seed: int, rank: int = 0, tables_device: str | torch.device = "meta"
) -> DLRM:
    """The model with initialised weights; the MLPs on the CPU.

    Args:
        config: sizes.
        schema: number of dense features; names and rows of the tables.
        seed: of initial weights and dropout.
        rank: which part of each global batch this process computes (matters to dropout only).
        tables_device: where the tables live. On ``meta`` they have neither memory nor values yet; elsewhere they are
            initialised, too.

    Raises:
        ConfigError: the configuration does not fit the schema.
    """
    tables = build_tables(config, schema, device=tables_device)
    interaction = build_interaction(
        config.interaction,
        dense_dim=config.bottom_mlp[-1],
        table_dims=[table.embedding_dim for table in tables.embedding_bag_configs()],
    )
    model = DLRM(
        bottom_mlp=MLP(len(schema.dense), config.bottom_mlp, relu_last=True),
        tables=tables,
        pooling=build_pooling(config, schema),
        interaction=interaction,
        top_mlp=MLP(
            interaction.out_features, config.top_mlp, relu_last=False, dropout=config.dropout, seed=seed, rank=rank
        ),
    )
    initialise_dense(model, seed)
    if torch.device(tables_device).type != "meta":
        initialise_tables(tables, seed, bound=config.embedding_init_bound)
    return model
