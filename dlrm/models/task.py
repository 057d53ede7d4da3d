"""The model with the loss it is trained with."""

from __future__ import annotations

from collections.abc import Sequence
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
        """float32 (B, T), 0 or 1."""

    @property
    def weights(self) -> torch.Tensor:
        """float32 (B, T), the sample's weight for a label, 0 for padding and missing ones."""

    @property
    def loss_scale(self) -> torch.Tensor:
        """float32 (), ranks / samples of the global batch."""


Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Detached: loss (), losses (T,) and logits (B, T), labels (B, T), weights (B, T), all float32."""


class TrainTask(nn.Module):
    """The model with its loss, in the form that torchrec's train pipelines call.

    The pipelines trace this module symbolically down to the tables and start the exchange of their argument,
    ``batch.sparse``, one batch ahead; so on the way there nothing may be computed from the batch.

    Args:
        model: gives the logits.
        weights: of each task's loss in the sum that is trained.
    """

    def __init__(self, model: Model, weights: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        self.model = model
        self._weights = tuple(weights)

    def forward(self, batch: TrainBatch) -> tuple[torch.Tensor, Outputs]:
        """The loss and what metrics are made of.

        Returns:
            The rank's share of the loss, the tasks' losses times their weights, float32 (); and :data:`Outputs`. A task's
            loss is loss_scale * sum of its labels' binary cross-entropies times the samples' weights (its mean over the
            ranks is the mean over the samples of the global batch, where a missing label counts 0).
        """
        logits_BT = self.model(batch.dense, batch.sparse).float()  # whatever the model's parts compute in
        entropies_BT = nn.functional.binary_cross_entropy_with_logits(
            logits_BT, batch.labels, weight=batch.weights, reduction="none"
        )
        losses_T = batch.loss_scale * entropies_BT.sum(0)
        loss = losses_T.sum()
        if any(weight != 1 for weight in self._weights):
            loss = torch.stack([losses_T[task] * weight for task, weight in enumerate(self._weights)]).sum()
        return loss, (loss.detach(), losses_T.detach(), logits_BT.detach(), batch.labels, batch.weights)
