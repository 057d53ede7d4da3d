"""The hooks of every run: loss and speed over time, and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from dlrm import activity
from dlrm.config.metrics import is_better
from dlrm.config.optim import OptimConfig
from dlrm.config.train import EvaluationConfig
from dlrm.data.check import bad_values_text
from dlrm.distributed.world import World
from dlrm.errors import DataError, DivergedError
from dlrm.metrics.base_rate import BaseRateWatch
from dlrm.metrics.tasks import Results, deciding
from dlrm.metrics.throughput import Throughput, ThroughputMeter
from dlrm.optim.averaging import Averaging
from dlrm.optim.schedule import learning_rate
from dlrm.run.console import Display, Status
from dlrm.run.recorder import Recorder
from dlrm.run.results import record_results, result_lines
from dlrm.schema import ONE_TASK
from dlrm.train.hooks import Hook, multiple_after
from dlrm.train.schedule import Position
from dlrm.train.stepper import StepOutput

TARGET_REACHED = "evaluation.target_auc reached"
STALLED = "evaluation.patience is over: validation has not become better"


@dataclass
class Measured:
    """What the hooks found, for the closing table, summary.json and checkpoints.

    Attributes:
        throughput: training time only; before: of earlier processes of the run.
        last_loss: mean loss of the last recorded window.
        loss_sums_2T: float64 on the device, each task's sum of losses and number of labels of this rank since a record;
            with weights of samples, sums of weighted losses and of weights.
        unrecorded: whether anything was trained since then.
        tasks: their names; validation: of the last evaluation, and the step it was made at.
        days: of each day that was scored before it was trained on the step, its name and the results.
        base_rate: whether the model has become worse than none.
    """

    throughput: ThroughputMeter
    tasks: tuple[str, ...] = ONE_TASK
    before: Throughput = field(default_factory=Throughput)
    loss_sums_2T: torch.Tensor = field(default_factory=lambda: torch.zeros(2, 1, dtype=torch.float64))
    unrecorded: bool = False
    last_loss: float | None = None
    validation: Results | None = None
    validation_step: int | None = None
    validation_history: list[tuple[int, Results]] = field(default_factory=list)
    days: list[tuple[int, str, Results]] = field(default_factory=list)
    base_rate: BaseRateWatch = field(default_factory=BaseRateWatch)


class LossAndSpeed(Hook):
    """Counts throughput, sums the loss on the device, and every so many steps records and shows both.

    Args:
        world: over whose ranks the loss is averaged.
        optim: for the learning rates in the records; rate_factor: of these.
        every_steps: steps between records, each of which costs one all-reduce of five numbers a task.
        total_steps: for the progress.
        weights: of each task's loss in what is trained; learned: the same where they are learned, or None.
    """

    def __init__(
        self,
        world: World,
        optim: OptimConfig,
        measured: Measured,
        recorder: Recorder,
        display: Display,
        *,
        every_steps: int,
        total_steps: int,
        weights: Sequence[float] = (1.0,),
        learned: Callable[[], list[float] | None] = lambda: None,
        bad_values: Callable[[], dict[str, int]] = dict,
        rate_factor: float = 1.0,
    ) -> None:
        self._world = world
        self._optim = optim
        self._measured = measured
        self._recorder = recorder
        self._display = display
        self._every_steps = every_steps
        self._total_steps = total_steps
        self._weights = weights
        self._learned = learned
        self._rate_factor = rate_factor
        self._bad_values = bad_values
        self._position = Position()
        self._recorded_step: int | None = None  # None: another process has trained a part of the window
        # By weight the positives, and the samples that were predicted right; not by weight the labels.
        self._counts_3T = torch.zeros(3, *measured.loss_sums_2T.shape[1:]).to(measured.loss_sums_2T)

    def on_start(self, position: Position) -> None:
        """Training time starts here, so that set-up does not count."""
        self._position = position
        self._recorded_step = None if self._measured.unrecorded else position.step
        self._measured.throughput.restart(self._measured.before)

    def on_step(self, position: Position, output: StepOutput) -> None:
        """Add the step up; record at multiples of ``every_steps``.

        Raises:
            DivergedError: at a record, if the loss is no longer finite.
        """
        samples = position.samples - self._position.samples
        self._position = position
        self._measured.throughput.count(samples)
        self._measured.unrecorded = True
        self._measured.loss_sums_2T[0] += output.losses_T.double() * (samples / self._world.size)
        self._measured.loss_sums_2T[1] += output.weights_BT.sum(
            0
        )  # without padding, skipped samples and missing labels
        right_BT = (output.logits_BT > 0) == (output.labels_BT > 0.5)
        self._counts_3T[0] += (output.labels_BT * output.weights_BT).sum(0)
        self._counts_3T[1] += (right_BT * output.weights_BT).sum(0)
        self._counts_3T[2] += output.weights_BT.count_nonzero(0)
        if position.step % self._every_steps == 0:
            self._record()

    def on_end(self, position: Position, reason: str) -> None:
        """Record the steps since the last record; training time ends here."""
        if self._measured.unrecorded:
            self._record()
        self._measured.throughput.stop()

    def _record(self) -> None:
        sums_5T = torch.cat([self._measured.loss_sums_2T, self._counts_3T])
        self._world.collectives.all_reduce_sum_(sums_5T)
        losses_T, labels_T, _, right_T, _ = sums_5T.tolist()
        self._measured.loss_sums_2T.zero_()
        self._counts_3T.zero_()
        self._measured.unrecorded = False
        if not any(labels_T):  # of all ranks together, so that all of them leave
            causes = bad_values_text(self._bad_values())
            problem = (
                f"every sample of the steps up to {self._position.step} was skipped (data.bad_rows: skip): {causes}"
                if causes
                else f"every sample of the steps up to {self._position.step} has weight 0"
            )
            raise DataError("training samples", problem, hint="check data.rows and the files: nothing is trained on")
        means_T = [losses / labels if labels else 0.0 for losses, labels in zip(losses_T, labels_T, strict=True)]
        loss = sum(mean * weight for mean, weight in zip(means_T, self._weights, strict=True))
        if not math.isfinite(loss):  # of all ranks together, so that all of them leave
            raise DivergedError(f"step {self._position.step}: the training loss is {loss}")
        window = self._measured.throughput.mark()
        position, optim = self._position, self._optim
        self._measured.last_loss = loss
        values = {
            "epoch": position.epoch,
            "samples": position.samples,
            "loss": loss,
            "samples_per_s": round(window.samples_per_s, 1),
            "training_time_s": round(self._measured.throughput.overall().elapsed_s, 3),
            "lr_dense": learning_rate(optim.schedule, optim.dense.lr * self._rate_factor, position.step),
            "lr_sparse": learning_rate(optim.schedule, optim.sparse.lr * self._rate_factor, position.step),
        }
        if self._recorded_step is not None and labels_T[0]:
            values["accuracy"] = right_T[0] / labels_T[0]
        self._recorder.record("train", position.step, values)
        if len(means_T) > 1:
            learned = self._learned()
            for t, (task, mean, labels) in enumerate(zip(self._measured.tasks, means_T, labels_T, strict=True)):
                if labels:
                    weight = {} if learned is None else {"weight": learned[t]}
                    self._recorder.record("train", position.step, {"task": task, "loss": mean, **weight})
        self._display.status(Status(position.step, self._total_steps, loss, window.samples_per_s, "training"))
        if self._recorded_step is not None:
            first = self._recorded_step + 1
            if line := self._measured.base_rate.trained(first, position.step, _as_counted(sums_5T)):
                self._display.say(line)
        self._recorded_step = position.step


def _as_counted(sums_5T: torch.Tensor) -> list[list[float]]:
    """Losses, labels and positives, of sums of them by weight scaled to the number of labels, the last row."""
    losses_T, weights_T, positives_T, _, labels_T = sums_5T
    scale_T = torch.where(weights_T > 0, labels_T / weights_T, 0)
    return [(losses_T * scale_T).tolist(), labels_T.tolist(), (positives_T * scale_T).tolist()]


class Validation(Hook):
    """Evaluates on the validation samples every so many steps and at the end of each epoch; may end the training.

    Args:
        config: when, the AUC to stop at, and how long to wait for a better result.
        score: evaluates the model; the same results on every rank.
        metric: by which results are compared.
        planned: whether a step is one to evaluate at. A run that was stopped elsewhere has evaluated there, too, and goes
            on as if it had not.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        score: Callable[[], Results],
        measured: Measured,
        recorder: Recorder,
        display: Display,
        *,
        metric: str = "auc",
        planned: Callable[[int], bool] = lambda step: True,
    ) -> None:
        self._config = config
        self._metric = metric
        self._planned = planned
        self._score = score
        self._measured = measured
        self._recorder = recorder
        self._display = display

    def on_start(self, position: Position) -> str | None:
        """Train no more where the run had reached the target already."""
        results = self._measured.validation
        if results is None or self._measured.validation_step != position.step:
            return None
        return self._end_after(results)

    def next_pause(self, step: int) -> int | None:
        """The next multiple of ``every_steps``."""
        return multiple_after(step, self._config.every_steps) if self._config.every_steps else None

    def on_pause(self, position: Position) -> str | None:
        """Evaluate if it is time to; ask for the end where the target is reached."""
        every = self._config.every_steps
        if not (position.epoch_ended or (every and position.step % every == 0)):
            return None
        return self._end_after(self._evaluate(position, last=False))

    def _end_after(self, results: Results) -> str | None:
        target, auc = self._config.target_auc, deciding(results).auc
        if target is not None and auc is not None and auc >= target:
            return TARGET_REACHED
        patience = self._config.patience
        return STALLED if patience is not None and self._since_best() >= patience else None

    def _since_best(self) -> int:
        """How many of the planned evaluations came after the best one."""
        found = [results for step, results in self._measured.validation_history if self._planned(step)]
        values: list[float | None] = [getattr(deciding(results), self._metric) for results in found]
        best, since = None, 0
        for value in values:
            if value is not None and (best is None or is_better(self._metric, value, best)):
                best, since = value, 0
            else:
                since += 1
        return since

    def on_end(self, position: Position, reason: str) -> None:
        """Evaluate the final weights if the last evaluation was of earlier ones."""
        if self._measured.validation_step != position.step:
            self._evaluate(position, last=True)
        elif self._measured.validation is not None:
            self._judge(position, self._measured.validation, last=True)

    def _evaluate(self, position: Position, *, last: bool) -> Results:
        with self._measured.throughput.paused():
            results = self._score()
        self._measured.validation, self._measured.validation_step = results, position.step
        self._measured.validation_history.append((position.step, results))
        record_results(self._recorder, "validation", position.step, results)
        for text in result_lines(results):
            self._display.say(f"step {position.step}: validation {text}")
        self._judge(position, results, last=last)
        return results

    def _judge(self, position: Position, results: Results, *, last: bool) -> None:
        if line := self._measured.base_rate.evaluated("validation", position.step, results, last=last):
            self._display.say(line)


class ShowActivity(Hook):
    """Lets who watches this process know that it trains, and how far it has come."""

    def on_start(self, position: Position) -> None:
        """Training begins."""
        activity.begin(activity.TRAINING, position.step)

    def on_step(self, position: Position, output: StepOutput) -> None:
        """It gets on."""
        activity.advance(position.step)

    def on_end(self, position: Position, reason: str) -> None:
        """What follows is done once."""
        activity.begin(activity.FINISHING, position.step)


class AverageWeights(Hook):
    """Keeps the average of the weights up to date.

    Args:
        average: follows the weights.
    """

    def __init__(self, average: Averaging) -> None:
        self._average = average

    def on_step(self, position: Position, output: StepOutput) -> None:
        """Take the step's weights into account."""
        self._average.update()


class ResetTables(Hook):
    """Puts the tables back to their initial weights after each epoch that another one follows.

    Args:
        reset: does it, optimizer state included.
    """

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset

    def before_steps(self, position: Position) -> None:
        """Reset where training goes on after an epoch, by a resume, too; what is saved or scored there is as it was."""
        if position.epoch_ended:
            self._reset()
