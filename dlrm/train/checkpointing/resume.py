"""Where training begins: at the first sample, or after what a checkpoint holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rich.table import Table

from dlrm.checkpoint.folder import Skipped, newest_good, set_aside
from dlrm.checkpoint.load import differences
from dlrm.checkpoint.names import step_of
from dlrm.checkpoint.patience import Patience, patient
from dlrm.checkpoint.remote import located
from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.soundness import fault_in_state
from dlrm.checkpoint.storage import Storage
from dlrm.checkpoint.stored import Checkpoint, open_checkpoint
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.config import Config
from dlrm.config.checkpoint import NEWEST, NO_CHECKPOINT
from dlrm.distributed.collectives import from_rank_0, together
from dlrm.distributed.world import World
from dlrm.errors import CheckpointError, CheckpointMismatchError
from dlrm.run.console import Display
from dlrm.run.folder import RunFolder, require_no_checkpoints
from dlrm.train.checkpointing.load import load_state
from dlrm.train.checkpointing.state import after_load, engine_tensors
from dlrm.train.checkpointing.train_state import (
    Best,
    TrainingData,
    TrainState,
    config_changes,
    data_difference,
    order_differences,
)
from dlrm.train.checkpointing.vocabularies import require_same_vocabularies, uncompared_line
from dlrm.train.engine import Engine
from dlrm.train.schedule import Position

_HINT = "use the configuration that it was saved with, or --resume.strict false to take what fits"
_DATA_HINT = "restore the data, or go on at the same place in what is there now: --resume.changed_data true"


@dataclass(frozen=True)
class Start:
    """Where training begins.

    Attributes:
        position: trained so far.
        checkpoint: whose state the engine has; None: the initial one.
        saved: its train state; None if it holds weights alone, or its position has no meaning here.
        own: whether the checkpoint is one of this run; best: the best of these so far.
        lines, table: what to tell a person.
    """

    position: Position = field(default_factory=Position)
    checkpoint: Checkpoint | None = None
    saved: TrainState | None = None
    own: bool = False
    best: Best | None = None
    lines: tuple[str, ...] = ()
    table: Table | None = None


def checkpoint_folder(config: Config, run: RunFolder) -> str:
    """Where the run's checkpoints are, a path or a URL."""
    if config.checkpoint.dir is None:
        return f"{run.path}/checkpoints"
    return f"{config.checkpoint.dir.rstrip('/')}/{run.path.name}"


def patience_with_storage(config: Config, world: World, display: Display) -> Patience:
    """How long to wait for storage that is away when training begins, and who says so: rank 0, or a rank's log."""
    say = display.say if world.is_leader else logging.getLogger(__name__).warning
    return Patience(config.resume.wait_s, say)


def start_elsewhere(config: Config, engine: Engine, data: TrainingData, world: World, patience: Patience) -> Start:
    """Load what a new run is to begin with, if it is the checkpoint of another; collective.

    Args:
        config: says from what: a checkpoint, a run or a run's folder of checkpoints.
        engine: as built.
        data: what is trained on.
        world: the ranks that load together.
        patience: with the storage of the checkpoint.

    Raises:
        CheckpointMismatchError: the checkpoint does not fit; nothing was loaded.
        CheckpointError: there is none, or it is not to be trusted.
    """
    if config.resume.checkpoint in (NO_CHECKPOINT, NEWEST):
        return Start()
    storage, path = located(config.resume.checkpoint)
    storage = patient(storage, patience)
    tensors = engine_tensors(engine)

    def open_it() -> Checkpoint:
        checkpoint = open_checkpoint(chosen, storage)
        _other_order(checkpoint, tensors, config, data)
        return checkpoint

    chosen, skipped = from_rank_0(world.collectives, lambda: find_checkpoint(path, storage))
    checkpoint = together(world.collectives, open_it)
    left = load_state(engine, checkpoint, world.collectives, strict=config.resume.strict)
    start = _start(config, data, checkpoint, left)
    return replace(start, lines=(*_passed_over(skipped), *start.lines))


def find_checkpoint(path: str, storage: Storage) -> tuple[str, list[Skipped]]:
    """The checkpoint that a path stands for, and what was passed over."""
    if step_of(path) is not None:
        return path, []
    for folder in (path, f"{path}/checkpoints"):
        found, skipped = newest_good(folder, storage=storage)
        if found is not None:
            return found.path, skipped
        if skipped:
            raise CheckpointError(skipped[0].path, skipped[0].why)
    raise CheckpointError(path, "is no checkpoint and holds none", hint="check the path")


def start_here(
    config: Config,
    engine: Engine,
    data: TrainingData,
    run: RunFolder,
    storage: Storage,
    world: World,
    *,
    otherwise: Callable[[], Start],
) -> Start:
    """Load the newest checkpoint of the run itself where the run goes on; collective.

    Args:
        config: says whether it does.
        engine: as built, or with the state of what ``otherwise`` says.
        data: what is trained on.
        run: this run's folder.
        storage: of this run's checkpoints.
        world: the ranks that load together.
        otherwise: says, on every rank, where training begins if there is no such checkpoint; may load it.

    Raises:
        CheckpointMismatchError: the checkpoint does not fit; nothing was loaded.
        CheckpointError: the storage fails, there are checkpoints of which none can be used, or ``otherwise`` finds nothing.
        ConfigError: checkpoints of an earlier run lie where those of this one would.
    """
    folder, collectives = checkpoint_folder(config, run), world.collectives
    if not run.restarted and config.resume.checkpoint != NEWEST:
        if config.checkpoint.enabled:
            from_rank_0(collectives, lambda: require_no_checkpoints(folder, storage))
        return otherwise()
    tensors = engine_tensors(engine)

    def agree() -> None:
        found, _ = newest_good(folder, storage=storage)
        if found is not None and (other := _other_order(found, tensors, config, data)):
            hint = f"start another run from it: --resume.checkpoint {found.path} --run.name another"
            raise CheckpointMismatchError(found.path, other, hint=hint)

    from_rank_0(collectives, agree)
    strict = config.resume.strict
    resumed = load_newest(folder, tensors, collectives, strict=strict, storage=storage, judge=fault_in_state)
    if resumed.checkpoint is None:
        _refuse_to_begin_anew(folder, resumed.skipped)
    from_rank_0(collectives, lambda: _set_aside(resumed.skipped, storage))
    lines = _passed_over(resumed.skipped)
    if resumed.checkpoint is None:
        other = otherwise()
        here = () if other.checkpoint else (f"no checkpoint in {folder}: training begins at the first sample",)
        return replace(other, lines=(*lines, *here, *other.lines))
    after_load(engine)
    start = _start(config, data, resumed.checkpoint, resumed.left)
    return replace(start, own=True, best=start.saved.best if start.saved else None, lines=(*lines, *start.lines))


def _other_order(
    checkpoint: Checkpoint, tensors: Sequence[GlobalTensor], config: Config, data: TrainingData
) -> list[str]:
    """In what a checkpoint was trained on samples in another order, in words.

    Raises:
        CheckpointMismatchError: in something, and that is not allowed; ids of other meanings never are.
    """
    require_same_vocabularies(checkpoint, data.vocabularies)
    saved = TrainState.of(checkpoint)
    if saved is None:
        return []
    other = order_differences(saved, config, data)
    if other and config.resume.strict:
        hint = _DATA_HINT if data_difference(saved, config, data) else _HINT
        raise CheckpointMismatchError(checkpoint.path, [*other, *differences(checkpoint, tensors)], hint=hint)
    return other


def _start(config: Config, data: TrainingData, checkpoint: Checkpoint, left: Sequence[str]) -> Start:
    """What training goes on from after a checkpoint was loaded, but for what was ``left``."""
    lines = [*uncompared_line(checkpoint, data.vocabularies), *(f"left as it was: {what}" for what in left)]
    saved = TrainState.of(checkpoint)
    other = [] if saved is None else order_differences(saved, config, data)
    if saved is None or other:
        because = f", because {'; '.join(other)}" if other else ""
        line = f"weights of {checkpoint.path}; training begins at the first sample{because}"
        return Start(checkpoint=checkpoint, lines=(line, *lines))
    position = saved.position_in(config, data.samples, checkpoint.path, data.days)
    changed = [f"changed since: {change}" for change in config_changes(saved, config)]
    line = f"resumed from {checkpoint.path} (step {position.step:,}, {position.samples:,} samples)"
    return Start(position, checkpoint, saved, lines=(line, *_data_line(saved, config, data), *changed, *lines))


def _passed_over(skipped: Sequence[Skipped]) -> list[str]:
    return [f"skipped {one.path}: {one.why}" for one in skipped]


def _data_line(saved: TrainState, config: Config, data: TrainingData) -> list[str]:
    """What is to be said of training data that are not surely those of the checkpoint."""
    if found := data_difference(saved, config, data):
        return [f"goes on in other training data, as resume.changed_data says: {found}"]
    unknown = data.files and saved.data_files is None
    return ["the checkpoint does not say by which files its data are known: they were not compared"] if unknown else []


def _refuse_to_begin_anew(folder: str, skipped: list[Skipped]) -> None:
    """Nobody has asked for a training from the first sample where there are checkpoints; what they hold may be mended.

    Raises:
        CheckpointError: there are some, of which none can be used.
    """
    committed = [one for one in skipped if one.kind != "uncommitted"]
    if committed:
        problem = f"none of the checkpoints here ({len(committed)}) can be used, of which nothing was changed"
        hint = "restore one of them, or begin a new run: --resume none (beside this run) or another run.name"
        raise CheckpointError(folder, f"{problem}; the newest: {committed[0].why}", hint=hint)


def _set_aside(skipped: list[Skipped], storage: Storage) -> None:
    """Make way for the steps that will be saved anew; what was never committed is cleared away when they are."""
    for one in skipped:
        set_aside(one.path, storage, why="diverged" if one.kind == "diverged" else "damaged")
