"""The deep interest network (arXiv:1706.06978): histories as the candidate sees them, and an MLP on all vectors."""

from __future__ import annotations

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model import DinModel
from dlrm.errors import ConfigError
from dlrm.layers.attention import AttendedHistories
from dlrm.layers.heads import build_heads
from dlrm.models.base import Model
from dlrm.models.tables import Embedding
from dlrm.schema import Schema


class DIN(Model):
    """Tables -> attention over histories -> top MLP -> logits (arXiv:1706.06978, figure 2).

    Attributes:
        sequence_tables: tables of candidates, which their histories share; tables: those of the other features.
        attention: candidates and histories as vectors. Dense features join them as they are.
        top_mlp, heads: as in :class:`dlrm.models.dlrm.DLRM`.
    """

    lower_precision = ("attention", "top_mlp", "heads")

    def __init__(
        self,
        *,
        embedding: Embedding,
        attention: AttendedHistories,
        top_mlp: nn.Module,
        heads: nn.Module,
    ) -> None:
        super().__init__(embedding)
        self.attention = attention
        self.top_mlp = top_mlp
        self.heads = heads

    def forward(self, dense_BN: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """float32 (B, T), the logits; see :meth:`dlrm.models.base.Model.forward`."""
        assert self.sequence_tables is not None  # `build` sees to it
        found, pooled = self.sequence_tables(sparse), self.tables(sparse)
        vectors_BX = torch.cat((self.attention(self.rows(found)), self.vectors(pooled, sparse), dense_BN), dim=1)
        return self.heads(self.top_mlp(vectors_BX))  # type: ignore[no-any-return]


def build(config: DinModel, schema: Schema, embedding: Embedding, *, seed: int, rank: int) -> DIN:
    """The model around its embedding; its weights are drawn later.

    Raises:
        ConfigError: data without a history.
    """
    if not schema.histories:
        message = "is din, which needs a history (docs/sequences.md), and the data have none: use dlrm or deepfm"
        raise ConfigError.at("model.kind", message)
    histories = {feature.name: feature.history_of for feature in schema.histories}
    candidates = tuple(dict.fromkeys(histories.values()))
    attention = AttendedHistories(candidates, histories, config.embedding_dim, config.attention)
    top_mlp, heads = build_heads(
        attention.out_features + sum(embedding.dims) + len(schema.dense),
        config.top_mlp[:-1],
        config.heads,
        tasks=len(schema.tasks),
        dropout=config.dropout,
        seed=seed,
        rank=rank,
    )
    return DIN(embedding=embedding, attention=attention, top_mlp=top_mlp, heads=heads)
