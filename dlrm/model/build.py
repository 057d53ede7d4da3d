"""From configuration and schema to a model."""

from __future__ import annotations

import torch
from torch import nn

from dlrm.config.model import BOTTOM_MLP, DotInteraction, ModelConfig
from dlrm.errors import ConfigError
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
    check_parts(config, schema)
    tables = build_tables(config, schema, device=tables_device)
    bottom_mlp = MLP(len(schema.dense), config.bottom_mlp, relu_last=True) if schema.dense else nn.Identity()
    interaction = build_interaction(
        config.interaction,
        dense_dim=config.bottom_mlp[-1] if schema.dense else 0,
        table_dims=[table.embedding_dim for table in tables.embedding_bag_configs()],
    )
    model = DLRM(
        bottom_mlp=bottom_mlp,
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


def check_parts(config: ModelConfig, schema: Schema) -> None:
    """See that the bottom MLP and the interaction have something to work on.

    Raises:
        ConfigError: a bottom MLP that ends with another width than the tables', or that is asked for where there are no
            dense features; dot products of a single vector.
    """
    if schema.dense:
        if config.fault_in_bottom_mlp:
            raise ConfigError.at("model", config.fault_in_bottom_mlp)
        return
    if config.bottom_mlp != BOTTOM_MLP:
        message = "is the MLP on the dense features, of which the data have none: leave it out"
        raise ConfigError.at("model.bottom_mlp", message)
    interaction = config.interaction
    if isinstance(interaction, DotInteraction) and len(schema.sparse) == 1 and not interaction.self_interaction:
        message = (
            "is dot, but without dense features there is one vector, that of the only table, and no pair to multiply: "
            "use cat or dcn, or set model.interaction.self_interaction"
        )
        raise ConfigError.at("model.interaction.kind", message)
