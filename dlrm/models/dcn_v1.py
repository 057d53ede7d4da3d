"""Deep & Cross Network, first version (arXiv:1708.05123): cross layers and an MLP side by side."""

from __future__ import annotations

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model import DcnV1Model
from dlrm.layers.cross import VectorCross
from dlrm.layers.heads import build_heads
from dlrm.models.base import Model
from dlrm.models.tables import Embedding
from dlrm.schema import Schema


class DcnV1(Model):
    """Figure 1: x_0 = dense features and vectors (equation 2); L1 cross layers (equation 3) and L2 layers of an MLP on it.

    The logit is linear in both outputs, [x_L1, h_L2] w (equation 5) + b: ``cross_logits`` holds the upper part of w, the
    last layer of ``deep_mlp`` (or the tasks' towers) the lower one and b.

    Attributes:
        tables, cross, cross_logits, deep_mlp, heads: the parts with weights.
    """

    lower_precision = ("cross", "deep_mlp", "heads")

    def __init__(
        self,
        *,
        embedding: Embedding,
        cross: VectorCross,
        cross_logits: nn.Linear,
        deep_mlp: nn.Module,
        heads: nn.Module,
    ) -> None:
        super().__init__(embedding)
        self.cross = cross
        self.cross_logits = cross_logits
        self.deep_mlp = deep_mlp
        self.heads = heads

    def forward(self, dense_BN: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """float32 (B, T), the logits; see :meth:`dlrm.models.base.Model.forward`."""
        pooled = self.tables(sparse)
        x_BX = torch.cat((dense_BN, self.vectors(pooled, sparse)), dim=1)
        return self.cross_logits(self.cross(x_BX)) + self.heads(self.deep_mlp(x_BX))  # type: ignore[no-any-return]


def build(config: DcnV1Model, schema: Schema, embedding: Embedding, *, seed: int, rank: int) -> DcnV1:
    """The model around its embedding; its weights are drawn later."""
    width, tasks = len(schema.dense) + sum(embedding.dims), len(schema.tasks)
    deep_mlp, heads = build_heads(
        width, config.deep_mlp, config.heads, tasks=tasks, dropout=config.dropout, seed=seed, rank=rank
    )
    return DcnV1(
        embedding=embedding,
        cross=VectorCross(in_features=width, num_layers=config.cross_layers),
        cross_logits=nn.Linear(width, tasks, bias=False),
        deep_mlp=deep_mlp,
        heads=heads,
    )
