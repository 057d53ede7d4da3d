"""The model with the loss it is trained with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.layers.row_decay import RowDecay
from dlrm.models.base import Model
from dlrm.models.task_weighting import FixedWeights, UncertaintyWeights

MODEL_PREFIX = "model."
"""With which the names of the model's weights begin where they are :class:`TrainTask`'s."""

TASK_WEIGHTING = "task_weighting"
"""The group of what weighs the tasks, where that is learned."""


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
        weights: of each task's loss in the sum that is trained; None: they are learned.
        tasks: T, where they are learned.
        embedding_decay: L2 penalty of the rows that a batch looks up; see :class:`~dlrm.layers.row_decay.RowDecay`.
        label_smoothing: e; what is trained is the loss of labels ``(1 - e) * label + e / 2`` (arXiv:1512.00567, section 7,
            for two classes).

    Attributes:
        model: the model; task_weighting: makes one loss of several.
    """

    def __init__(
        self,
        model: Model,
        weights: Sequence[float] | None = (1.0,),
        *,
        tasks: int = 1,
        label_smoothing: float = 0.0,
        embedding_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.task_weighting = UncertaintyWeights(tasks) if weights is None else FixedWeights(weights)
        self._label_smoothing = label_smoothing
        if embedding_decay:
            model.pooling.decay = RowDecay(embedding_decay)
            self.register_forward_pre_hook(_note_loss_scale)  # not in forward, which may be traced

    @property
    def groups(self) -> list[str]:
        """The groups of weights outside of the tables: the model's, and that of the tasks' weights if they are learned."""
        return [*self.model.groups, *([TASK_WEIGHTING] if list(self.task_weighting.parameters()) else [])]

    def freeze(self, names: Collection[str]) -> None:
        """Leave groups and tables untrained; see :meth:`dlrm.models.base.Model.freeze`."""
        self.model.freeze(names)
        if TASK_WEIGHTING in names:
            self.task_weighting.requires_grad_(False)

    def forward(self, batch: TrainBatch) -> tuple[torch.Tensor, Outputs]:
        """The loss and what metrics are made of.

        Returns:
            The rank's share of the loss, the tasks' losses as ``task_weighting`` adds them up, float32 (); and
            :data:`Outputs`. A task's loss is loss_scale * sum of its labels' binary cross-entropies times the samples'
            weights (its mean over the ranks is the mean over the samples of the global batch, where a missing label counts
            0). The losses that are put out are of the labels as they are, not smoothed.
        """
        logits_BT = self.model(batch.dense, batch.sparse).float()  # whatever the model's parts compute in
        entropies_BT = nn.functional.binary_cross_entropy_with_logits(
            logits_BT, batch.labels, weight=batch.weights, reduction="none"
        )
        losses_T = batch.loss_scale * entropies_BT.sum(0)
        trained_T = losses_T
        if self._label_smoothing:  # a cross-entropy is linear in its label, and that of logit x grows by -x
            towards_BT = (0.5 - batch.labels) * self._label_smoothing
            trained_T = losses_T - batch.loss_scale * (towards_BT * logits_BT * batch.weights).sum(0)
        loss = self.task_weighting(trained_T, batch.weights, batch.loss_scale)
        return loss, (loss.detach(), losses_T.detach(), logits_BT.detach(), batch.labels, batch.weights)


def _note_loss_scale(task: TrainTask, inputs: tuple[TrainBatch]) -> None:
    decay = task.model.pooling.decay
    assert isinstance(decay, RowDecay)
    decay.loss_scale = inputs[0].loss_scale
