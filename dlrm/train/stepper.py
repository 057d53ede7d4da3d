"""One step: the only file that drives torchrec's train pipelines.

A pipeline reads ahead (the exchange of the next batch's ids overlaps with this batch's compute), so what it has consumed is
not what it has trained. Here an iterator of batches is always run to its end: when :meth:`Stepper.train` returns, every
batch it was given has been trained and nothing is in flight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx.proxy import TraceError
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineBase

from dlrm.activity import Awaited
from dlrm.config.train import Pipeline
from dlrm.data.batch import Batch
from dlrm.lookups.jagged import RowsLookedUp
from dlrm.optim.training import TrainingOptimizer
from dlrm.sharding.copies import ONE_COPY, Copies
from dlrm.sharding.growing.tables import IdsAreRows, RowsOfIds
from dlrm.sharding.id_exchange import SparseDistPipeline
from dlrm.sharding.replicas import sum_over_ranks

_NOT_TRACED = (
    "The train pipeline traces a model's forward: what cannot be traced goes into a child (docs/extending.md, A model)."
)


@dataclass(frozen=True)
class StepOutput:
    """What a step leaves on the device, for one rank.

    Attributes:
        loss: float32 (), what is trained; losses_T: float32 (T,), of each task. The mean over the ranks is that
            of the global batch.
        logits_BT, labels_BT, weights_BT: float32 (B, T); weight 0 is padding, or a label that is missing.
    """

    loss: torch.Tensor
    losses_T: torch.Tensor
    logits_BT: torch.Tensor
    labels_BT: torch.Tensor
    weights_BT: torch.Tensor


class Stepper:
    """Drives a sharded model over batches.

    Args:
        model: a DistributedModelParallel around a TrainTask.
        optimizer: its optimizers.
        device: where it computes.
        pipeline: what runs beside what.
        copies: of the model's tables.
        rows_of_ids: makes rows of the ids of growing tables.
        lookups: what the model looks up of these, where it is something else.
    """

    def __init__(
        self,
        model: DistributedModelParallel,
        optimizer: TrainingOptimizer,
        device: torch.device,
        pipeline: Pipeline,
        copies: Copies = ONE_COPY,
        rows_of_ids: RowsOfIds | None = None,
        lookups: RowsLookedUp | None = None,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._copies = copies
        self._rows_of_ids = rows_of_ids or IdsAreRows()
        self._lookups = lookups
        kind = SparseDistPipeline if pipeline == "sparse_dist" else TrainPipelineBase
        self._pipeline = kind(model, optimizer, device)
        model.register_forward_pre_hook(self._begin)

    def train(self, batches: Iterator[Batch], first_step: int) -> Iterator[StepOutput]:
        """Train every global batch.

        Args:
            batches: the rank's parts of consecutive global batches, each of them whole or in micro-batches.
            first_step: number of the first step, counted from 1 over the whole run; it determines the learning rate.

        Yields:
            The output of each step, as soon as the global batch has been trained.
        """
        self._model.train()
        batches = self._looked_up(self._rows_of_ids.admitted(Awaited(batches), first_step))
        step = first_step
        parts: list[StepOutput] = []
        while True:
            if not parts:
                self._optimizer.set_step(step)
            try:
                output = self._progress(batches)
            except StopIteration:
                self._pipeline.reset()  # the base pipeline would take the next iterator for exhausted, too
                return
            parts.append(StepOutput(*output))
            if self._optimizer.ends_step:
                self._copies.after_step(step)
                yield _joined(parts)
                step, parts = step + 1, []

    def predict(self, batches: Iterator[Batch]) -> Iterator[StepOutput]:
        """Run every batch forward only; the model is left in training mode."""
        self.agree()
        self._model.eval()
        batches = self._looked_up(self._rows_of_ids.looked_up(Awaited(batches)))
        try:
            while True:
                with torch.no_grad():
                    output = self._progress(batches)
                yield StepOutput(*output)
        except StopIteration:
            self._pipeline.reset()
            return
        finally:
            self._model.train()

    def agree(self) -> None:
        """Have all copies of the tables hold the same; between steps."""
        self._copies.agree()

    def _begin(self, _: torch.nn.Module, inputs: tuple[Batch]) -> None:
        """Forward pre-hook: only here it is known which of the batches that were read ahead is computed now."""
        self._optimizer.ends_step = inputs[0].ends_step
        sum_over_ranks(self._model, now=inputs[0].ends_step)
        self._rows_of_ids.begin(inputs[0])

    def _looked_up(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches as the model looks them up."""
        if (rows := self._lookups) is None:
            return batches
        return (replace(batch, sparse=rows(batch.sparse, constant="lengths" in batch.constant)) for batch in batches)

    def _progress(self, batches: Iterator[Batch]) -> Any:
        try:
            return self._pipeline.progress(batches)
        except TraceError as error:
            error.add_note(_NOT_TRACED)
            raise


def _joined(parts: list[StepOutput]) -> StepOutput:
    """What a step leaves whose micro-batches left these."""
    if len(parts) == 1:
        return parts[0]
    return StepOutput(
        loss=torch.stack([part.loss for part in parts]).sum(),
        losses_T=torch.stack([part.losses_T for part in parts]).sum(0),
        logits_BT=torch.cat([part.logits_BT for part in parts]),
        labels_BT=torch.cat([part.labels_BT for part in parts]),
        weights_BT=torch.cat([part.weights_BT for part in parts]),
    )
