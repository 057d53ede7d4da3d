"""The model and the loss it is trained with."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.model.interaction import Interaction
from dlrm.model.mlp import MLP
from dlrm.model.pooling import PooledColumns


class DLRM(nn.Module):
    """Bottom MLP and tables -> interaction -> top MLP -> logit (arXiv:1906.00091, figure 1).

    Attributes:
        bottom_mlp, tables, interaction, top_mlp: the parts with weights, under the names that options and reports use.
            Sharding puts a sharded collection in the place of ``tables``. Where there are no dense features ``bottom_mlp``
            passes them, float32 (B, 0), on as they are.
    """

    def __init__(
        self,
        *,
        bottom_mlp: MLP | nn.Identity,
        tables: EmbeddingBagCollection,
        pooling: PooledColumns,
        interaction: Interaction,
        top_mlp: MLP,
    ) -> None:
        super().__init__()
        self.bottom_mlp = bottom_mlp
        self.tables = tables
        self.pooling = pooling
        self.interaction = interaction
        self.top_mlp = top_mlp

    def forward(self, dense_BN: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """The logit of a click for each sample.

        Args:
            dense_BN: float32 (B, N).
            sparse: ids of every feature; empty bags are pooled to zeros.

        Returns:
            float32 (B,).
        """
        # Sharded tables only start their exchange here; it runs while the bottom MLP computes, until `pooling` waits.
        pooled = self.tables(sparse)
        dense_BD = self.bottom_mlp(dense_BN)
        logits_B1 = self.top_mlp(self.interaction(dense_BD, self.pooling(pooled, sparse)))
        return logits_B1.squeeze(1)  # type: ignore[no-any-return]


class TrainBatch(Protocol):
    """What the loss needs of a batch; :class:`dlrm.data.batch.Batch` describes the attributes."""

    @property
    def dense(self) -> torch.Tensor:
        """float32 (B, N)."""

    @property
    def sparse(self) -> KeyedJaggedTensor:
        """Ids by feature; bags of padding are empty."""

    @property
    def labels(self) -> torch.Tensor:
        """float32 (B,), 0 or 1."""

    @property
    def weights(self) -> torch.Tensor:
        """float32 (B,), 1 for a sample, 0 for padding."""

    @property
    def loss_scale(self) -> torch.Tensor:
        """float32 (), ranks / samples of the global batch."""


Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Detached: loss () and logits (B,), labels (B,), weights (B,), all float32."""


class TrainTask(nn.Module):
    """The model with its loss, in the form that torchrec's train pipelines call.

    The pipelines trace this module symbolically down to the tables and start the exchange of their argument,
    ``batch.sparse``, one batch ahead; so on the way there nothing may be computed from the batch.
    """

    def __init__(self, model: DLRM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TrainBatch) -> tuple[torch.Tensor, Outputs]:
        """The loss and what metrics are made of.

        Returns:
            The rank's share of the loss, loss_scale * sum of the samples' binary cross-entropies (its mean over the
            ranks is the mean of the global batch), float32 (); and :data:`Outputs`.
        """
        logits_B = self.model(batch.dense, batch.sparse)
        summed = nn.functional.binary_cross_entropy_with_logits(
            logits_B, batch.labels, weight=batch.weights, reduction="sum"
        )
        loss = batch.loss_scale * summed
        return loss, (loss.detach(), logits_B.detach(), batch.labels, batch.weights)
