"""Wukong (arXiv:2403.02545): a stack of factorisation machines on embeddings."""

from __future__ import annotations

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model import WukongModel
from dlrm.counter_rng import stream_key
from dlrm.layers.heads import build_heads
from dlrm.layers.mlp import MLP
from dlrm.layers.wukong import WukongLayer
from dlrm.models.base import Model
from dlrm.models.tables import Embedding
from dlrm.schema import Schema


class Wukong(Model):
    """Figure 2: a vector of the dense features beside those of the tables, a stack of layers, an MLP on what they give.

    Attributes:
        tables, dense_mlp, stack, top_mlp, heads: the parts with weights; without dense features ``dense_mlp`` passes
            these, float32 (B, 0), on as they are.
    """

    lower_precision = ("dense_mlp", "stack", "top_mlp", "heads")

    def __init__(
        self,
        *,
        embedding: Embedding,
        dense_mlp: MLP | nn.Identity,
        stack: nn.Sequential,
        top_mlp: nn.Module,
        heads: nn.Module,
    ) -> None:
        super().__init__(embedding)
        self.dense_mlp = dense_mlp
        self.stack = stack
        self.top_mlp = top_mlp
        self.heads = heads
        self.dim = embedding.dims[0]

    def forward(self, dense_BN: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """float32 (B, T), the logits; see :meth:`dlrm.models.base.Model.forward`."""
        pooled = self.tables(sparse)
        dense_BD = self.dense_mlp(dense_BN)  # while sharded tables exchange; `vectors` waits for them
        x_BVD = torch.cat((dense_BD, self.vectors(pooled, sparse)), dim=1).unflatten(1, (-1, self.dim))
        return self.heads(self.top_mlp(self.stack(x_BVD).flatten(1)))  # type: ignore[no-any-return]


def build(config: WukongModel, schema: Schema, embedding: Embedding, *, seed: int, rank: int) -> Wukong:
    """The model around its embedding; its weights are drawn later."""
    dense, dim = len(schema.dense), config.embedding_dim
    layers: list[WukongLayer] = []
    for number in range(config.layers):
        vectors = layers[-1].vectors if layers else len(schema.sparse) + (dense > 0)
        layers.append(WukongLayer(config, vectors, seed=stream_key(seed, "stack", number), rank=rank))
    top_mlp, heads = build_heads(
        layers[-1].vectors * dim,
        config.top_mlp,
        config.heads,
        tasks=len(schema.tasks),
        dropout=config.dropout,
        seed=seed,
        rank=rank,
    )
    return Wukong(
        embedding=embedding,
        dense_mlp=MLP(dense, (*config.dense_mlp, dim), relu_last=False, gives_logits=False) if dense else nn.Identity(),
        stack=nn.Sequential(*layers),
        top_mlp=top_mlp,
        heads=heads,
    )
