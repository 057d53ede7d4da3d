"""Wide & Deep (arXiv:1606.07792): a linear model and an MLP, trained together."""

from __future__ import annotations

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model import WideDeepModel
from dlrm.layers.fields import LinearPart
from dlrm.layers.heads import build_heads
from dlrm.models.base import Model
from dlrm.models.tables import Embedding, check_row_width
from dlrm.schema import Schema


class WideDeep(Model):
    """Section 3.3, equation 3: the logit is w_wide^T x + w_deep^T a + b, where a is the last hidden layer of an MLP.

    A row (D,) holds an id's vector (D - T,) and then its weight in the wide part for each task. The MLP sees the dense
    features and the vectors. There are no cross-product transformations (section 3.1): such columns come with the data.

    Attributes:
        tables, linear, deep_mlp, heads: the parts with weights; ``linear`` is the wide one.
    """

    lower_precision = ("deep_mlp", "heads")

    def __init__(
        self, *, embedding: Embedding, linear: LinearPart, deep_mlp: nn.Module, heads: nn.Module, tasks: int
    ) -> None:
        super().__init__(embedding)
        self.linear = linear
        self.deep_mlp = deep_mlp
        self.heads = heads
        self.dim, self.vector = embedding.dims[0], embedding.dims[0] - tasks

    def forward(self, dense_BN: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """float32 (B, T), the logits; see :meth:`dlrm.models.base.Model.forward`."""
        pooled = self.tables(sparse)
        rows_BFD = self.vectors(pooled, sparse).unflatten(1, (-1, self.dim))
        x_BX = torch.cat((dense_BN, rows_BFD[..., : self.vector].flatten(1)), dim=1)
        wide_BT = self.linear(dense_BN, rows_BFD[..., self.vector :])
        return wide_BT + self.heads(self.deep_mlp(x_BX))  # type: ignore[no-any-return]


def build(config: WideDeepModel, schema: Schema, embedding: Embedding, *, seed: int, rank: int) -> WideDeep:
    """The model around its embedding; its weights are drawn later.

    Raises:
        ConfigError: the tasks' weights leave no room for a vector in a row.
    """
    tasks, dense = len(schema.tasks), len(schema.dense)
    check_row_width(config, tasks + 1, "a vector and a weight a task")
    deep_mlp, heads = build_heads(
        dense + len(schema.sparse) * (config.embedding_dim - tasks),
        config.deep_mlp,
        config.heads,
        tasks=tasks,
        dropout=config.dropout,
        seed=seed,
        rank=rank,
    )
    return WideDeep(embedding=embedding, linear=LinearPart(dense, tasks), deep_mlp=deep_mlp, heads=heads, tasks=tasks)
