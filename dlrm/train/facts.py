"""What a checkpoint says beside its tensors: where training stood, what it was, and how well it went.

Facts come from a file, so they are read as strictly as everything else in it (:meth:`SavedFacts.of`).
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dlrm.checkpoint.stored import Checkpoint
from dlrm.config import Config
from dlrm.config.describe import flatten, to_plain
from dlrm.data.fingerprint import FileFingerprint, difference
from dlrm.distributed.world import World
from dlrm.errors import CheckpointError, DivergedError
from dlrm.metrics.binary import BinaryResult
from dlrm.metrics.throughput import Throughput
from dlrm.sharding.report import TablePlacement
from dlrm.train.build import training_order
from dlrm.train.hooks import Position
from dlrm.train.standard_hooks import Measured

# Sections and options that say where and how to run, not what is trained.
_NOT_TRAINING = ("run", "distributed", "logging", "checkpoint", "resume", "sharding")
_MEND = "use another checkpoint, or --resume.strict false for its weights alone"

Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Fact(BaseModel):
    """What is read strictly, but for facts that are not known here."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class PositionFact(_Fact):
    """A :class:`~dlrm.train.hooks.Position`."""

    epoch: Count
    batch: Count
    step: Count
    samples: Count
    epoch_ended: bool


class ResultFact(_Fact):
    """A :class:`~dlrm.metrics.binary.BinaryResult`."""

    samples: Count
    positives: Count
    auc: float | None = None
    auc_error_bound: float | None = None
    log_loss: float | None = None
    normalised_entropy: float | None = None
    accuracy: float | None = None
    calibration: float | None = None
    click_rate: float | None = None
    mean_prediction: float | None = None


class FileFact(_Fact):
    """A :class:`~dlrm.data.fingerprint.FileFingerprint`."""

    name: str
    bytes: Count
    sample: str
    sha256: str = ""
    rows: str = ""


class MetricsFact(_Fact):
    """Figures of the run so far.

    Attributes:
        training_time_s: over all processes of the run.
        loss_sum, loss_samples: over all ranks, since the last record.
        validation: steps and results of all evaluations.
    """

    training_time_s: Annotated[float, Field(ge=0)] = 0.0
    last_loss: float | None = None
    loss_sum: float = 0.0
    loss_samples: float = 0.0
    validation: list[tuple[Count, ResultFact]] = []


class BestFact(_Fact):
    """The best value so far of the metric that decides which checkpoint is kept, and the step it was measured at."""

    metric: str
    value: float
    step: Count


class SavedFacts(_Fact):
    """Everything of a checkpoint's facts that training goes on from."""

    position: PositionFact
    order: dict[str, Any]
    config: dict[str, Any]
    data_files: list[FileFact] | None = None
    metrics: MetricsFact = MetricsFact()
    best: BestFact | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> SavedFacts | None:
        """The facts of a checkpoint of training; None for one that holds weights alone.

        Raises:
            CheckpointError: something is missing, or not what it should be.
        """
        if "position" not in checkpoint.facts:
            return None
        try:
            facts = cls.model_validate(checkpoint.facts, strict=False)
        except ValidationError as error:
            detail = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(ascii(part).strip("'")[:80] for part in detail["loc"])
            raise CheckpointError(checkpoint.path, f"facts.{where}: {detail['msg']}", mend=_MEND) from None
        if facts.position.step != checkpoint.step:
            problem = f"is of step {checkpoint.step}, but its position is step {facts.position.step}"
            raise CheckpointError(checkpoint.path, problem, mend=_MEND)
        return facts

    def position_in(self, config: Config, num_samples: int, path: str) -> Position:
        """Where to go on.

        Raises:
            CheckpointError: there is no such place in the order of samples.
        """
        found, order = self.position, training_order(config, num_samples)
        position = Position(**found.model_dump())
        epoch_samples = sum(map(order.samples_in, (0, order.num_batches - 1)))  # of the first and the last batch
        if order.num_batches > 1:
            epoch_samples += (order.num_batches - 2) * order.samples_in(0)
        else:
            epoch_samples = order.samples_in(0)
        expected = Position(
            epoch=found.step // order.num_batches,
            batch=found.step % order.num_batches,
            step=found.step,
            samples=found.step // order.num_batches * epoch_samples
            + found.step % order.num_batches * order.samples_in(0),
            epoch_ended=found.step > 0 and found.step % order.num_batches == 0,
        )
        if position != expected:
            raise CheckpointError(path, f"its position {position} is none of an epoch of {order.num_batches} batches")
        return position

    def restore(self, measured: Measured, *, leader: bool) -> None:
        """Go on counting from the figures of the run so far; what is summed over ranks is given to the leader alone."""
        metrics = self.metrics
        measured.before = Throughput(self.position.samples, self.position.step, metrics.training_time_s)
        measured.last_loss = metrics.last_loss
        measured.validation_history[:] = [
            (step, BinaryResult(**result.model_dump())) for step, result in metrics.validation
        ]
        if measured.validation_history:
            measured.validation_step, measured.validation = measured.validation_history[-1]
        measured.unrecorded = metrics.loss_samples > 0
        if leader:
            measured.loss_sums_2.copy_(torch.tensor([metrics.loss_sum, metrics.loss_samples], dtype=torch.float64))


@dataclass(frozen=True)
class TrainingData:
    """What is trained on: how many samples, read from which files."""

    samples: int
    files: tuple[FileFingerprint, ...] = ()


@dataclass(frozen=True)
class FactsOfRun:
    """Makes the facts of each checkpoint of a run.

    Attributes:
        config, data: what is trained, and on what; placements: where the tables are.
        measured: figures so far; versions: of the packages that compute.
    """

    config: Config
    data: TrainingData
    world: World
    placements: list[TablePlacement]
    measured: Measured
    versions: dict[str, str]

    def __call__(self, position: Position, reason: str, best: BestFact | None) -> dict[str, Any]:
        """Facts for the manifest; collective.

        Raises:
            DivergedError: the loss is no longer finite, nor, then, worth saving what it comes from; on every rank.
        """
        return {
            "position": asdict(position),
            "order": order_facts(self.config, self.data.samples),
            "data_files": [asdict(file) for file in self.data.files],
            "config": to_plain(self.config),
            "plan": [asdict(placement) for placement in self.placements],
            "metrics": self._metrics(position),
            "best": None if best is None else best.model_dump(),
            "reason": reason,
            "ranks": self.world.size,
            "time": time.time(),
            "versions": self.versions,
        }

    def _metrics(self, position: Position) -> dict[str, Any]:
        sums_2 = self.measured.loss_sums_2.clone()
        self.world.collectives.all_reduce_sum_(sums_2)
        if not math.isfinite(sums_2[0]):
            raise DivergedError(f"step {position.step}: the training loss summed since the last record is {sums_2[0]}")
        return {
            "training_time_s": self.measured.throughput.overall().elapsed_s,
            "last_loss": self.measured.last_loss,
            "loss_sum": float(sums_2[0]),
            "loss_samples": float(sums_2[1]),
            "validation": [(step, result.to_dict()) for step, result in self.measured.validation_history],
        }


def order_facts(config: Config, num_samples: int) -> dict[str, Any]:
    """Everything that decides which samples form global batch k of epoch e."""
    train = config.train
    facts: dict[str, Any] = {
        "data.samples": num_samples,
        "run.seed": config.run.seed,
        "train.global_batch_size": train.global_batch_size,
        "train.drop_last": train.drop_last,
        "train.shuffle": train.shuffle,
    }
    if train.shuffle and train.shuffle_block_samples:
        facts["train.shuffle_block_samples"] = train.shuffle_block_samples
        facts["train.shuffle_window_blocks"] = train.shuffle_window_blocks
    return facts


def order_differences(saved: SavedFacts, config: Config, data: TrainingData) -> list[str]:
    """In what the order of samples, or the samples themselves, are others, each in words."""
    here = order_facts(config, data.samples)
    names = sorted(here.keys() | saved.order.keys())
    found = [
        f"{_printable(name)} is {shown(saved.order.get(name))} in the checkpoint, {shown(here.get(name))} here"
        for name in names
        if saved.order.get(name) != here.get(name)
    ]
    changed = "" if config.resume.changed_data else data_difference(saved, data)
    return [*found, f"the training data are not those it was saved with: {changed}"] if changed else found


def data_difference(saved: SavedFacts, data: TrainingData) -> str:
    """What makes the samples others, as far as their files tell, in words; empty if nothing does, or it is not known."""
    if saved.data_files is None:
        return ""
    found = difference([FileFingerprint(**file.model_dump()) for file in saved.data_files], data.files)
    return _printable(found, at_most=300)


def config_changes(saved: SavedFacts, config: Config) -> list[str]:
    """Options of the training that have other values than when the checkpoint was saved: ``optim.dense.lr 0.1 -> 0.2``."""
    defaults = flatten(to_plain(Config()))
    now = flatten(to_plain(config))
    # An option that is younger than the checkpoint had its default's effect then: model.kind was dlrm.
    before = {name: value for name, value in defaults.items() if name in now} | flatten(saved.config)
    return [
        f"{_printable(name)} {shown(before.get(name))} -> {shown(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if name.partition(".")[0] not in _NOT_TRAINING and before.get(name) != now.get(name)
    ]


def shown(value: Any) -> str:
    """A value of a fact in a few printable characters."""
    return _printable(ascii(value) if isinstance(value, str) else str(value))


def _printable(text: str, *, at_most: int = 60) -> str:
    text = ascii(text)[1:-1] if not (text.isascii() and text.isprintable()) else text
    return text if len(text) <= at_most else f"{text[: at_most - 3]}..."
