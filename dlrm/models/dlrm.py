"""The deep learning recommendation model: bottom MLP and tables -> interaction -> top MLP -> logits.

arXiv:1906.00091, figure 1.
"""

from __future__ import annotations

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model import BOTTOM_MLP, DlrmModel, DotInteraction
from dlrm.errors import ConfigError
from dlrm.layers.heads import build_heads
from dlrm.layers.interaction import Interaction, build_interaction
from dlrm.layers.mlp import MLP
from dlrm.models.base import Model
from dlrm.models.tables import Embedding
from dlrm.schema import Schema


class DLRM(Model):
    """Bottom MLP and tables -> interaction -> top MLP -> logits (arXiv:1906.00091, figure 1).

    Attributes:
        bottom_mlp, tables, interaction, top_mlp, heads: the parts with weights, named as options and reports name them.
            Sharding puts a sharded collection in the place of ``tables``. Where there are no dense features ``bottom_mlp``
            passes them, float32 (B, 0), on as they are.
            The last layer of ``top_mlp`` has a logit a task, and ``heads`` passes them on, unless tasks have towers;
            see :func:`~dlrm.layers.heads.build.build_heads`.
    """

    lower_precision = ("bottom_mlp", "interaction", "top_mlp", "heads")

    def __init__(
        self,
        *,
        embedding: Embedding,
        bottom_mlp: MLP | nn.Identity,
        interaction: Interaction,
        top_mlp: nn.Module,
        heads: nn.Module,
    ) -> None:
        super().__init__(embedding)
        self.bottom_mlp = bottom_mlp
        self.interaction = interaction
        self.top_mlp = top_mlp
        self.heads = heads

    def forward(self, dense_BN: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """float32 (B, T), the logits; see :meth:`dlrm.models.base.Model.forward`."""
        pooled = self.tables(sparse)
        dense_BD = self.bottom_mlp(dense_BN)  # while sharded tables exchange; `vectors` waits for them
        return self.heads(self.top_mlp(self.interaction(dense_BD, self.vectors(pooled, sparse))))  # type: ignore[no-any-return]


def build(config: DlrmModel, schema: Schema, embedding: Embedding, *, seed: int, rank: int) -> DLRM:
    """The model around its embedding; its weights are drawn later.

    Raises:
        ConfigError: the configuration does not fit the schema.
    """
    check_parts(config, schema)
    interaction = build_interaction(
        config.interaction,
        dense_dim=config.bottom_mlp[-1] if schema.dense else 0,
        table_dims=embedding.dims,
    )
    top_mlp, heads = build_heads(
        interaction.out_features,
        config.top_mlp[:-1],
        config.heads,
        tasks=len(schema.tasks),
        dropout=config.dropout,
        seed=seed,
        rank=rank,
    )
    return DLRM(
        embedding=embedding,
        bottom_mlp=MLP(len(schema.dense), config.bottom_mlp, relu_last=True) if schema.dense else nn.Identity(),
        interaction=interaction,
        top_mlp=top_mlp,
        heads=heads,
    )


def check_parts(config: DlrmModel, schema: Schema) -> None:
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
