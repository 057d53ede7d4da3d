"""Scores every sample of a split exactly once, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from dlrm import activity
from dlrm.data.batch import Batch
from dlrm.data.check import bad_values_text
from dlrm.data.loader import BatchLoader
from dlrm.distributed.world import World
from dlrm.metrics.tasks import Results, TaskMetrics
from dlrm.optim.averaging import Averaging
from dlrm.train.stepper import StepOutput, Stepper


class Watcher:
    """Sees what an evaluation scores; this one makes nothing of it."""

    def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, on the host; some are taken before those ahead of them are scored."""
        return batches

    def scored(self, output: StepOutput) -> None:
        """A batch's scores, in the order of the batches."""


class Evaluator:
    """Evaluates the model, and what could be reached at best, on the batches of a loader.

    Args:
        stepper: runs the model forward.
        average: whose weights are evaluated.
        world: ranks, over which the figures are summed.
        say: tells a person why there is nothing to score.
        weighted: count each sample by its weight, not once.
    """

    def __init__(
        self,
        stepper: Stepper,
        average: Averaging,
        world: World,
        say: Callable[[str], None] = lambda text: None,
        *,
        weighted: bool = False,
    ) -> None:
        self._stepper = stepper
        self._average = average
        self._world = world
        self._say = say
        self._weighted = weighted

    def evaluate(self, loader: BatchLoader, watcher: Watcher | None = None) -> Results:
        """The model's figures over all samples of all ranks; the same on every rank.

        Args:
            loader: of this rank's samples.
            watcher: sees each batch and its scores.
        """
        watcher = watcher or Watcher()
        metrics = TaskMetrics(loader.source.schema.tasks, self._world.device, weighted=self._weighted)
        loader.bad_values.clear()
        self._stepper.agree()  # before weights and averages change places
        with activity.during(activity.EVALUATING), self._average.applied():
            for output in self._stepper.predict(watcher.batches(loader.batches(0, 0, loader.order.num_batches))):
                metrics.update(output.logits_BT, output.labels_BT, output.weights_BT)
                watcher.scored(output)
        metrics.all_reduce(self._world.collectives)
        results = metrics.compute()
        if not any(result.samples for result in results.values()) and loader.source.num_samples:
            causes = bad_values_text(loader.bad_values.summed(self._world.collectives))
            why = f"was skipped (data.bad_rows: skip): {causes}" if causes else "has weight 0"
            self._say(f"{loader.source.name}: no score, as every sample {why}")
        return results

    def best_reachable(self, loader: BatchLoader) -> Results | None:
        """The figures of the true logits, where the samples' hidden model is known: no score is better in expectation."""
        source = loader.source
        if not source.num_samples:
            return None
        metrics = TaskMetrics(source.schema.tasks, torch.device("cpu"), weighted=self._weighted)
        for k in range(loader.order.num_batches):
            index_B = loader.order.indices(0, k, self._world.rank, self._world.size)
            logits_BT = source.true_logits(index_B)
            if logits_BT is None:  # for every batch, on every rank
                return None
            samples = source.read(index_B)
            labels_BT, weights_B = samples.labels_BT, samples.weights_B
            weights_BT = (~labels_BT.isnan()).float()
            activity.advance()
            weights_BT = weights_BT if weights_B is None else weights_BT * weights_B[:, None]
            metrics.update(logits_BT.float(), labels_BT.nan_to_num(), weights_BT)
        metrics.all_reduce(self._world.collectives)
        return metrics.compute()
