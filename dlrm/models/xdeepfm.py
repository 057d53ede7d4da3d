"""xDeepFM (arXiv:1803.05170): first-order weights, a compressed interaction network and an MLP on the same fields."""

from __future__ import annotations

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model import XDeepFmModel
from dlrm.layers.cin import CompressedInteraction
from dlrm.layers.fields import DenseFields, LinearPart
from dlrm.layers.heads import build_heads
from dlrm.models.base import Model
from dlrm.models.tables import Embedding, check_row_width
from dlrm.schema import Schema


class XDeepFM(Model):
    """Equation 15: the logit is w_linear^T a + w_dnn^T x_dnn + w_cin^T p^+ + b.

    A field is a dense feature or a table. A row (D,) of a table holds an id's vector (D - T,) and then its first-order
    weight for each task.

    Attributes:
        tables, linear, dense_fields, cin, cin_logits, deep_mlp, heads: the parts with weights; ``dense_fields``, the
            vectors of dense features, is None without these.
    """

    lower_precision = ("cin", "deep_mlp", "heads")

    def __init__(
        self,
        *,
        embedding: Embedding,
        linear: LinearPart,
        dense_fields: DenseFields | None,
        cin: CompressedInteraction,
        cin_logits: nn.Linear,
        deep_mlp: nn.Module,
        heads: nn.Module,
    ) -> None:
        super().__init__(embedding)
        self.linear = linear
        self.dense_fields = dense_fields
        self.cin = cin
        self.cin_logits = cin_logits
        self.deep_mlp = deep_mlp
        self.heads = heads
        self.dim, self.vector = embedding.dims[0], embedding.dims[0] - cin_logits.out_features

    def forward(self, dense_BN: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """float32 (B, T), the logits; see :meth:`dlrm.models.base.Model.forward`."""
        pooled = self.tables(sparse)
        rows_BFD = self.vectors(pooled, sparse).unflatten(1, (-1, self.dim))
        fields_BVD = rows_BFD[..., : self.vector]
        if self.dense_fields is not None:
            fields_BVD = torch.cat((self.dense_fields(dense_BN), fields_BVD), dim=1)
        logits_BT = self.linear(dense_BN, rows_BFD[..., self.vector :]) + self.cin_logits(self.cin(fields_BVD))
        return logits_BT + self.heads(self.deep_mlp(fields_BVD.flatten(1)))  # type: ignore[no-any-return]


def build(config: XDeepFmModel, schema: Schema, embedding: Embedding, *, seed: int, rank: int) -> XDeepFM:
    """The model around its embedding; its weights are drawn later.

    Raises:
        ConfigError: the tasks' weights leave no room for a vector in a row.
    """
    tasks, dense = len(schema.tasks), len(schema.dense)
    check_row_width(config, tasks + 1, "a vector and a weight a task")
    fields, vector = dense + len(schema.sparse), config.embedding_dim - tasks
    deep_mlp, heads = build_heads(
        fields * vector, config.deep_mlp, config.heads, tasks=tasks, dropout=config.dropout, seed=seed, rank=rank
    )
    cin = CompressedInteraction(fields, config.cin)
    return XDeepFM(
        embedding=embedding,
        linear=LinearPart(dense, tasks),
        dense_fields=DenseFields(dense, vector) if dense else None,
        cin=cin,
        cin_logits=nn.Linear(cin.out_features, tasks, bias=False),
        deep_mlp=deep_mlp,
        heads=heads,
    )
