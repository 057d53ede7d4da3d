"""What training goes on from beside tensors: where it stood, what it was, and how well it went.

It comes from the metadata in a file, so it is read as strictly as everything else there (:meth:`TrainState.of`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dlrm.checkpoint.manifest import first_fault
from dlrm.checkpoint.stored import Checkpoint
from dlrm.config import Config
from dlrm.config.data import PlantedData, RandomData
from dlrm.config.describe import flatten, to_plain
from dlrm.data.fingerprint import FileFingerprint, difference
from dlrm.errors import CheckpointError
from dlrm.format import escaped
from dlrm.metrics.binary import BinaryResult
from dlrm.metrics.tasks import Results
from dlrm.metrics.throughput import Throughput
from dlrm.train.schedule import Position, Schedule
from dlrm.train.standard_hooks import Measured

# Sections and options that say where and how to run, not what is trained.
_NOT_TRAINING = ("run", "distributed", "logging", "checkpoint", "resume", "warm_start", "preflight", "sharding")
_TRAINING_ALL_THE_SAME = (
    "sharding.group_size",
    "sharding.sync_steps",
)  # how many copies of tables learn, and how long apart
_GENERATED: dict[str, type[PlantedData | RandomData]] = {"planted": PlantedData, "random": RandomData}
# Of generated data: what other samples are, how many there are, and the file of a trace, which is told by its content.
_COMPARED_OTHERWISE = (
    "data.train_samples",
    "data.validation_samples",
    "data.test_samples",
    "data.tasks",
    "data.ids.path",
)
_WEIGHTS = ("data.sample_weight", "data.id_weights")  # and data.sample_weights
_HINT = "use another checkpoint, or --resume.strict false for its weights alone"
_LONGEST = 60  # of a name or a value in a line

Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Saved(BaseModel):
    """What is read strictly, but for keys that are not known here."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class SavedPosition(_Saved):
    """A :class:`~dlrm.train.hooks.Position`."""

    epoch: Count
    batch: Count
    step: Count
    samples: Count
    epoch_ended: bool


class SavedResult(_Saved):
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
    average_precision: float | None = None
    average_precision_error_bound: float | None = None
    weight: float | None = None


class SavedFile(_Saved):
    """A :class:`~dlrm.data.fingerprint.FileFingerprint`."""

    name: str
    bytes: Count
    sample: str
    sha256: str = ""
    rows: str = ""


def _as_list(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]


class SavedMetrics(_Saved):
    """Figures of the run so far.

    Attributes:
        training_time_s: over all processes of the run.
        loss_sum, loss_samples: over all ranks, since the last record; of each task where there are several.
        validation: steps and results of all evaluations; by task where there are several.
        days: likewise of each day that was scored before it was trained on, with its name.
    """

    training_time_s: Annotated[float, Field(ge=0)] = 0.0
    last_loss: float | None = None
    loss_sum: float | list[float] = 0.0
    loss_samples: float | list[float] = 0.0
    validation: list[tuple[Count, SavedResult | dict[str, SavedResult]]] = []
    days: list[tuple[Count, str, SavedResult | dict[str, SavedResult]]] = []

    @model_validator(mode="after")
    def _both_sums_of_each_task(self) -> Self:
        if len(_as_list(self.loss_sum)) != len(_as_list(self.loss_samples)):
            raise ValueError("loss_sum and loss_samples are of different numbers of tasks")
        return self


def _results(found: SavedResult | dict[str, SavedResult], tasks: Sequence[str]) -> Results:
    """Results by task; none where they are of other tasks, which resume.strict false lets pass."""
    by_task = found if isinstance(found, dict) else {tasks[0]: found}
    if by_task.keys() != set(tasks):
        return {}
    return {task: BinaryResult(**by_task[task].model_dump()) for task in tasks}


class Best(_Saved):
    """The best value so far of the metric that decides which checkpoint is kept, and the step it was measured at."""

    metric: str
    value: float
    step: Count


class TrainState(_Saved):
    """Everything of a checkpoint's metadata that training goes on from."""

    position: SavedPosition
    order: dict[str, Any]
    config: dict[str, Any]
    data_files: list[SavedFile] | None = None
    metrics: SavedMetrics = SavedMetrics()
    best: Best | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> TrainState | None:
        """That of a checkpoint of training; None for one that holds weights alone.

        Raises:
            CheckpointError: something is missing, or not what it should be.
        """
        if "position" not in checkpoint.metadata:
            return None
        try:
            found = cls.model_validate(checkpoint.metadata, strict=False)
        except ValidationError as error:
            raise CheckpointError(checkpoint.path, first_fault(error, "facts"), hint=_HINT) from None
        if found.position.step != checkpoint.step:
            problem = f"is of step {checkpoint.step}, but its position is step {found.position.step}"
            raise CheckpointError(checkpoint.path, problem, hint=_HINT)
        return found

    def position_in(self, config: Config, num_samples: int, path: str, days: Sequence[int] = ()) -> Position:
        """Where to go on.

        Raises:
            CheckpointError: there is no such place in the order of samples.
        """
        schedule = Schedule.of(config.train, seed=config.run.seed, num_samples=num_samples, days=days)
        position = Position(**self.position.model_dump())
        if not schedule.has(position):
            batches = schedule.order.num_batches
            raise CheckpointError(path, f"its position {position} is none of an epoch of {batches} batches")
        return position

    def restore(self, measured: Measured, *, leader: bool) -> None:
        """Go on counting from the figures of the run so far; what is summed over ranks is given to the leader alone."""
        metrics, tasks = self.metrics, measured.tasks
        measured.before = Throughput(self.position.samples, self.position.step, metrics.training_time_s)
        measured.last_loss = metrics.last_loss
        measured.validation_history[:] = [
            (step, results) for step, found in metrics.validation if (results := _results(found, tasks))
        ]
        measured.days[:] = [
            (step, day, results) for step, day, found in metrics.days if (results := _results(found, tasks))
        ]
        if measured.validation_history:
            measured.validation_step, measured.validation = measured.validation_history[-1]
        sums_2T = [_as_list(metrics.loss_sum), _as_list(metrics.loss_samples)]
        if len(sums_2T[0]) != len(tasks):  # of other tasks, as above
            return
        measured.unrecorded = any(sums_2T[1])
        if leader:
            measured.loss_sums_2T.copy_(torch.tensor(sums_2T, dtype=torch.float64))


@dataclass(frozen=True)
class TrainingData:
    """What is trained on: how many samples, read from which files, how many each day has, digests of vocabularies."""

    samples: int
    files: tuple[FileFingerprint, ...] = ()
    days: tuple[int, ...] = ()
    vocabularies: Mapping[str, str] = field(default_factory=dict)


def order_options(config: Config, num_samples: int, days: Sequence[int] = ()) -> dict[str, Any]:
    """Everything that decides which samples form global batch k of epoch e."""
    train = config.train
    found: dict[str, Any] = {
        "data.samples": num_samples,
        "run.seed": config.run.seed,
        "train.global_batch_size": train.global_batch_size,
        "train.drop_last": train.drop_last,
        "train.shuffle": train.shuffle,
    }
    if train.shuffle and train.shuffle_block_samples:
        found["train.shuffle_block_samples"] = train.shuffle_block_samples
        found["train.shuffle_window_blocks"] = train.shuffle_window_blocks
    if train.by_day:
        found["train.by_day"] = True
        found["samples by day"] = list(days)
    if tasks := getattr(config.data, "tasks", ()):  # which of them is the first
        found["data.tasks"] = list(tasks)
    return found


def order_differences(saved: TrainState, config: Config, data: TrainingData) -> list[str]:
    """In what the order of samples, or the samples themselves, are others, each in words."""
    here = order_options(config, data.samples, data.days)
    names = sorted(here.keys() | saved.order.keys())
    found = [
        f"{escaped(name, _LONGEST)} is {_shown(saved.order.get(name))} in the checkpoint, {_shown(here.get(name))} here"
        for name in names
        if saved.order.get(name) != here.get(name)
    ]
    changed = "" if config.resume.changed_data else data_difference(saved, config, data)
    return [*found, f"the training data are not those it was saved with: {changed}"] if changed else found


def data_difference(saved: TrainState, config: Config, data: TrainingData) -> str:
    """What makes the samples others, as far as files and options tell, in words; empty if nothing does, or it is not known.

    Generated samples are what the options say. Weights make another loss of the same samples.
    """
    found = ""
    if saved.data_files is not None:
        found = difference([FileFingerprint(**file.model_dump()) for file in saved.data_files], data.files)
    return escaped("; ".join(filter(None, (found, *_sample_options(saved, config)))), 300)


def _sample_options(saved: TrainState, config: Config) -> list[str]:
    """Options that decide what samples of data of this kind are, and have other values than in the checkpoint, in words."""
    before, now = saved.config.get("data"), to_plain(config.data)
    if not isinstance(before, dict):
        return []
    if before.get("kind") != now["kind"]:
        generated = {before.get("kind"), now["kind"]} & set(_GENERATED)
        return [f"data.kind is {_shown(before.get('kind'))} in the checkpoint, {now['kind']} here"] if generated else []
    options = flatten(now, "data.")
    # One that is younger than the checkpoint had its default's effect then.
    defaults = flatten(to_plain(_GENERATED[now["kind"]]()), "data.") if now["kind"] in _GENERATED else {}
    was = defaults | flatten(before, "data.")
    if now["kind"] in _GENERATED:
        names = [name for name in sorted(options.keys() | was.keys()) if name not in _COMPARED_OTHERWISE]
    else:
        names = [name for name in sorted(options.keys() | was.keys()) if name.startswith(_WEIGHTS)]
    return [
        f"{escaped(name, _LONGEST)} is {_shown(was.get(name))} in the checkpoint, {_shown(options.get(name))} here"
        for name in names
        if (was.get(name) or None) != (options.get(name) or None)
    ]


def config_changes(saved: TrainState, config: Config) -> list[str]:
    """Options of the training that have other values than when the checkpoint was saved: ``optim.dense.lr 0.1 -> 0.2``."""
    defaults = flatten(to_plain(Config()))
    now = flatten(to_plain(config))
    # An option that is younger than the checkpoint had its default's effect then: model.kind was dlrm.
    before = {name: value for name, value in defaults.items() if name in now} | flatten(saved.config)
    return [
        f"{escaped(name, _LONGEST)} {_shown(before.get(name))} -> {_shown(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if _is_of_training(name) and before.get(name) != now.get(name)
    ]


def _is_of_training(name: str) -> bool:
    return name.partition(".")[0] not in _NOT_TRAINING or name in _TRAINING_ALL_THE_SAME


def _shown(value: Any) -> str:
    """A value in a few printable characters."""
    return escaped(ascii(value) if isinstance(value, str) else value, _LONGEST)
