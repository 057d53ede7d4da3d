"""The model with the loss it is trained with."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.models.base import Model

MODEL_PREFIX = "model."
"""With which the names of the model's weights begin where they are :class:`TrainTask`'s."""


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

    def __init__(self, model: Model) -> None:
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
