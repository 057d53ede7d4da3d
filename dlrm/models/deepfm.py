"""DeepFM (arXiv:1703.04247): first-order weights, a factorization machine and an MLP on the same field vectors."""

from __future__ import annotations

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model import DeepFmModel
from dlrm.layers.fields import DenseFields, pair_products
from dlrm.layers.heads import build_heads
from dlrm.models.base import Model
from dlrm.models.tables import Embedding
from dlrm.schema import Schema


class DeepFM(Model):
    """The logit is the sum of three: first-order weights, products of all pairs of field vectors, an MLP on all of them.

    A field is a dense feature or a table. Its row (D,), the pooled one of a table, holds its vector (D - 1,) and then its
    first-order weight.

    Attributes:
        tables, dense_fields, deep_mlp, heads: the parts with weights; ``dense_fields`` is None without dense features.
            Tasks share the first two sums; ``deep_mlp`` and ``heads`` are of
            :func:`~dlrm.layers.heads.build.build_heads`.
    """

    lower_precision = ("deep_mlp", "heads")

    def __init__(
        self,
        *,
        embedding: Embedding,
        dense_fields: DenseFields | None,
        deep_mlp: nn.Module,
        heads: nn.Module,
    ) -> None:
        super().__init__(embedding)
        self.dense_fields = dense_fields
        self.deep_mlp = deep_mlp
        self.heads = heads
        self.dim = embedding.dims[0]

    def forward(self, dense_BN: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """float32 (B, T), the logits; see :meth:`dlrm.models.base.Model.forward`."""
        pooled = self.tables(sparse)
        rows_BVD = self.vectors(pooled, sparse).unflatten(1, (-1, self.dim))
        if self.dense_fields is not None:
            rows_BVD = torch.cat((self.dense_fields(dense_BN), rows_BVD), dim=1)
        vectors_BVD, weights_BV = rows_BVD[..., :-1], rows_BVD[..., -1]
        shared_B = weights_BV.sum(1) + pair_products(vectors_BVD)
        return shared_B.unsqueeze(1) + self.heads(self.deep_mlp(vectors_BVD.flatten(1)))  # type: ignore[no-any-return]


def build(config: DeepFmModel, schema: Schema, embedding: Embedding, *, seed: int, rank: int) -> DeepFM:
    """The model around its embedding; its weights are drawn later."""
    dense, fields = len(schema.dense), len(schema.dense) + len(schema.sparse)
    deep_mlp, heads = build_heads(
        fields * (config.embedding_dim - 1),
        config.deep_mlp,
        config.heads,
        tasks=len(schema.tasks),
        dropout=config.dropout,
        seed=seed,
        rank=rank,
    )
    return DeepFM(
        embedding=embedding,
        dense_fields=DenseFields(dense, config.embedding_dim) if dense else None,
        deep_mlp=deep_mlp,
        heads=heads,
    )
