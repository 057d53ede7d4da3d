"""How much a run trains, and how far it has come.

Where training stands follows from the number of trained steps alone: epoch, batch and samples are computed from it and
never counted beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlrm.config import Config
from dlrm.config.train import TrainConfig
from dlrm.data.day_order import DayOrder
from dlrm.data.order import SampleOrder
from dlrm.errors import ConfigError

ALL_EPOCHS = "all epochs trained"
MAX_STEPS = "train.max_steps reached"


@dataclass(frozen=True)
class Position:
    """How far training has come; counts trained global batches only.

    Attributes:
        epoch: finished epochs; batch: trained global batches of the epoch under way.
        step: trained global batches of the run; samples: trained samples of the run, over all ranks.
        epoch_ended: whether the step before this position was the last of its epoch.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    samples: int = 0
    epoch_ended: bool = False


BEGINNING = Position()
"""Nothing is trained yet."""


@dataclass(frozen=True)
class Schedule:
    """A number of epochs, or fewer steps.

    Attributes:
        order: the global batches of an epoch, at least one.
        epochs: passes over the samples.
        max_steps: the most steps of the run, if it is limited.
    """

    order: SampleOrder
    epochs: int
    max_steps: int | None = None

    @classmethod
    def of(cls, config: TrainConfig, *, seed: int, num_samples: int, days: Sequence[int] = ()) -> Schedule:
        """The schedule of a run that trains on so many samples.

        Args:
            config: how.
            seed: of the order of the samples.
            num_samples: how many there are.
            days: how many of them each day has, where they are trained by day.

        Raises:
            ConfigError: there is no global batch to train, or no days.
        """
        options: dict[str, Any] = {
            "global_batch_size": config.global_batch_size,
            "shuffle": config.shuffle,
            "block_samples": config.shuffle_block_samples,
            "window_blocks": config.shuffle_window_blocks,
            "drop_last": config.drop_last,
        }
        if config.by_day and len(days) < 2:
            message = (
                "needs training data in two parts or more (of packed data, or files); the data have one: leave it out"
            )
            raise ConfigError.at("train.by_day", message)
        order = (
            DayOrder.of(days, seed=seed, **options) if config.by_day else SampleOrder(num_samples, seed=seed, **options)
        )
        if not order.num_batches:
            message = f"leaves no batch of {config.global_batch_size} out of {num_samples} samples; set it to false"
            raise ConfigError.at("train.drop_last", message)
        return cls(order, config.epochs, config.max_steps)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run if nothing stops it early."""
        steps = self.epochs * self.order.num_batches
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def position(self, step: int) -> Position:
        """How far training has come after ``step`` steps of the run."""
        epoch, batch = divmod(step, self.order.num_batches)
        return Position(
            epoch=epoch,
            batch=batch,
            step=step,
            samples=epoch * self.order.samples_before(self.order.num_batches) + self.order.samples_before(batch),
            epoch_ended=step > 0 and batch == 0,
        )

    def has(self, position: Position) -> bool:
        """Whether training comes by a position, at whatever epoch."""
        return position == self.position(position.step)

    def next_end(self, step: int) -> int:
        """The first step after ``step`` that is the last of an epoch or of the run."""
        epoch_end = (step // self.order.num_batches + 1) * self.order.num_batches
        return epoch_end if self.max_steps is None else min(epoch_end, self.max_steps)

    def stop_reason(self, step: int) -> str | None:
        """Why there is nothing to train after ``step`` steps; None if there is."""
        if step >= self.epochs * self.order.num_batches:
            return ALL_EPOCHS
        if self.max_steps is not None and step >= self.max_steps:
            return MAX_STEPS
        return None


def accumulation_lines(config: Config) -> list[str]:
    """What a run with micro-batches trains, in words: tables do not learn as they would from whole batches."""
    train, kind = config.train, config.optim.sparse.kind
    if train.accumulation_steps == 1:
        return []
    difference = "is another training than"
    if kind == "sgd":
        difference = "differs, by rows that occur in several of them, from"
    return [
        f"train.accumulation_steps {train.accumulation_steps}: a step has {train.accumulation_steps} micro-batches of "
        f"{train.micro_batch_size:,} samples. Dense parameters learn from their mean gradient, tables from each in turn, "
        f"which with {kind} {difference} a step with {train.global_batch_size:,} samples at once"
    ]
