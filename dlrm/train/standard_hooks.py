"""The hooks of every run: loss and speed over time, and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from dlrm.config.optim import OptimConfig
from dlrm.config.train import EvaluationConfig
from dlrm.data.check import bad_values_text
from dlrm.distributed.world import World
from dlrm.errors import DataError, DivergedError
from dlrm.metrics.base_rate import BaseRateWatch
from dlrm.metrics.binary import BinaryResult
from dlrm.metrics.throughput import Throughput, ThroughputMeter
from dlrm.optim.averaging import Averaging
from dlrm.optim.schedule import learning_rate
from dlrm.run.console import Display, Status
from dlrm.run.recorder import Recorder
from dlrm.train.hooks import Hook, multiple_after
from dlrm.train.schedule import Position
from dlrm.train.stepper import StepOutput

TARGET_REACHED = "evaluation.target_auc reached"


@dataclass
class Measured:
    """What the hooks found, for the closing table, summary.json and checkpoints.

    Attributes:
        throughput: training time only; before: of earlier processes of the run.
        last_loss: mean loss of the last recorded window.
        loss_sums_2: float64 on the device, this rank's sum of losses and number of samples since the last record.
        unrecorded: whether anything was trained since then.
        validation: of the last evaluation, and the step it was made at.
        base_rate: whether the model has become worse than none.
    """

    throughput: ThroughputMeter
    before: Throughput = field(default_factory=Throughput)
    loss_sums_2: torch.Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    unrecorded: bool = False
    last_loss: float | None = None
    validation: BinaryResult | None = None
    validation_step: int | None = None
    validation_history: list[tuple[int, BinaryResult]] = field(default_factory=list)
    base_rate: BaseRateWatch = field(default_factory=BaseRateWatch)


class LossAndSpeed(Hook):
    """Counts throughput, sums the loss on the device, and every so many steps records and shows both.

    Args:
        world: over whose ranks the loss is averaged.
        optim: for the learning rates in the records.
        every_steps: steps between records, each of which costs one all-reduce of two numbers.
        total_steps: for the progress.
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
        bad_values: Callable[[], dict[str, int]] = dict,
    ) -> None:
        self._world = world
        self._optim = optim
        self._measured = measured
        self._recorder = recorder
        self._display = display
        self._every_steps = every_steps
        self._total_steps = total_steps
        self._bad_values = bad_values
        self._position = Position()
        self._recorded_step: int | None = None  # None: another process has trained a part of the window
        self._positives_1 = torch.zeros_like(measured.loss_sums_2[:1])

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
        self._measured.loss_sums_2[0] += output.loss.double() * (samples / self._world.size)
        self._measured.loss_sums_2[1] += output.weights_B.sum()  # without padding and without samples that were skipped
        self._positives_1 += (output.labels_B * output.weights_B).sum()
        if position.step % self._every_steps == 0:
            self._record()

    def on_end(self, position: Position, reason: str) -> None:
        """Record the steps since the last record; training time ends here."""
        if self._measured.unrecorded:
            self._record()
        self._measured.throughput.stop()

    def _record(self) -> None:
        sums_3 = torch.cat([self._measured.loss_sums_2, self._positives_1])
        self._world.collectives.all_reduce_sum_(sums_3)
        losses, samples, positives = sums_3.tolist()
        self._measured.loss_sums_2.zero_()
        self._positives_1.zero_()
        self._measured.unrecorded = False
        if not samples:  # of all ranks together, so that all of them leave
            causes = bad_values_text(self._bad_values())
            problem = (
                f"every sample of the steps up to {self._position.step} was skipped (data.bad_rows: skip): {causes}"
            )
            raise DataError("training samples", problem, mend="check data.rows and the files: nothing is trained on")
        loss = losses / samples
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
            "lr_dense": learning_rate(optim.schedule, optim.dense.lr, position.step),
            "lr_sparse": learning_rate(optim.schedule, optim.sparse.lr, position.step),
        }
        self._recorder.record("train", position.step, values)
        self._display.status(Status(position.step, self._total_steps, loss, window.samples_per_s, "training"))
        if self._recorded_step is not None:
            first = self._recorded_step + 1
            if line := self._measured.base_rate.trained(first, position.step, losses, samples, positives):
                self._display.say(line)
        self._recorded_step = position.step


class Validation(Hook):
    """Evaluates on the validation samples every so many steps and at the end of each epoch; may end the training.

    Args:
        config: when, and the AUC to stop at.
        score: evaluates the model; the same result on every rank.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        score: Callable[[], BinaryResult],
        measured: Measured,
        recorder: Recorder,
        display: Display,
    ) -> None:
        self._config = config
        self._score = score
        self._measured = measured
        self._recorder = recorder
        self._display = display

    def on_start(self, position: Position) -> str | None:
        """Train no more where the run had reached the target already."""
        result = self._measured.validation
        if result is None or self._measured.validation_step != position.step:
            return None
        return self._end_after(result)

    def next_pause(self, step: int) -> int | None:
        """The next multiple of ``every_steps``."""
        return multiple_after(step, self._config.every_steps) if self._config.every_steps else None

    def on_pause(self, position: Position) -> str | None:
        """Evaluate if it is time to; ask for the end where the target is reached."""
        every = self._config.every_steps
        if not (position.epoch_ended or (every and position.step % every == 0)):
            return None
        return self._end_after(self._evaluate(position, last=False))

    def _end_after(self, result: BinaryResult) -> str | None:
        target = self._config.target_auc
        return TARGET_REACHED if target is not None and result.auc is not None and result.auc >= target else None

    def on_end(self, position: Position, reason: str) -> None:
        """Evaluate the final weights if the last evaluation was of earlier ones."""
        if self._measured.validation_step != position.step:
            self._evaluate(position, last=True)
        elif self._measured.validation is not None:
            self._judge(position, self._measured.validation, last=True)

    def _evaluate(self, position: Position, *, last: bool) -> BinaryResult:
        with self._measured.throughput.paused():
            result = self._score()
        self._measured.validation, self._measured.validation_step = result, position.step
        self._measured.validation_history.append((position.step, result))
        self._recorder.record("validation", position.step, result.to_dict())
        self._display.say(f"step {position.step}: validation {result_text(result)}")
        self._judge(position, result, last=last)
        return result

    def _judge(self, position: Position, result: BinaryResult, *, last: bool) -> None:
        if line := self._measured.base_rate.evaluated("validation", position.step, result, last=last):
            self._display.say(line)


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


def result_text(result: BinaryResult) -> str:
    """AUC, log loss and normalised entropy in a few words."""
    shown = {"AUC": result.auc, "log loss": result.log_loss, "NE": result.normalised_entropy}
    return "  ".join(f"{name} {'-' if value is None else format(value, '.5f')}" for name, value in shown.items())
