"""The hook that saves: every so many steps or minutes, when a signal asks for it, after the best evaluation, at the end.

Clocks differ between ranks and signals reach them at different times, so ranks agree: about every second of training they
add up who wants what (one all-reduce of a few numbers), and pause together if anybody wants a save.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from dlrm.checkpoint.retention import prune
from dlrm.checkpoint.saver import AsyncSaver, SaveReport
from dlrm.checkpoint.soundness import DivergedStateError
from dlrm.checkpoint.storage import Storage
from dlrm.checkpoint.stored import Checkpoint
from dlrm.checkpoint.tensors import LogicalTensor
from dlrm.config.checkpoint import CheckpointConfig
from dlrm.distributed.world import World
from dlrm.errors import CheckpointError, DivergedError, StoppedBySignal
from dlrm.signals import STOPPING, SignalWatch
from dlrm.train.console import Display
from dlrm.train.engine import Engine
from dlrm.train.facts import BestFact
from dlrm.train.hooks import Hook, Position, multiple_after
from dlrm.train.standard_hooks import Measured
from dlrm.train.state import engine_tensors

_LONGEST_POLL_STEPS = 10_000
_HIGHER_IS_BETTER = {"auc": True, "log_loss": False, "normalised_entropy": False}


class StateSource(Protocol):
    """What checkpoints are made of."""

    def collect(self) -> tuple[Sequence[LogicalTensor], dict[str, Any]]:
        """What the next checkpoint holds, and facts for its manifest; on every rank."""

    def settled(self, report: SaveReport | None) -> None:
        """The save before was committed (its report) or has failed (None); the same on every rank."""

    def resumed(self, checkpoint: Checkpoint | None) -> None:
        """Training goes on from a checkpoint, or starts; called once, before it does."""


class WholeState:
    """Everything, in every checkpoint."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> tuple[Sequence[LogicalTensor], dict[str, Any]]:
        """All tensors of the engine."""
        return engine_tensors(self._engine), {}

    def settled(self, report: SaveReport | None) -> None:
        """The next one is whole whatever became of the last."""

    def resumed(self, checkpoint: Checkpoint | None) -> None:
        """Nor does it depend on the first."""


@dataclass
class Kept:
    """Which checkpoints stay: the newest few and the best.

    :meth:`__call__` runs in the thread that writes, :attr:`reports` and :attr:`warnings` are emptied by training. That old
    checkpoints cannot be removed is no failure of the save: it is told once, and tried again after the next.
    """

    folder: str
    storage: Storage
    keep: int
    best_step: int | None = None
    damaged: Collection[str] = ()
    reports: list[SaveReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _refused: bool = False

    def __call__(self, report: SaveReport) -> None:
        """Remove what has become too old, now that a newer one is committed."""
        self.reports.append(report)
        protected = [] if self.best_step is None else [self.best_step]
        try:
            prune(self.folder, keep=self.keep, protected=protected, damaged=self.damaged, storage=self.storage)
        except CheckpointError as error:
            if not self._refused:
                self.warnings.append(f"an old checkpoint cannot be removed: {error}; tried again after every save")
            self._refused = True
        else:
            self._refused = False


class Saving(Hook):
    """Saves checkpoints behind training.

    Args:
        config: when.
        saver: writes; kept: its callback.
        source: what to write; facts: makes what is written beside it.
        measured: for the metric that decides which is the best; best: the best so far.
        saved_step: of the run's checkpoint that training goes on from, if it does; last_step: with which training ends.
        signals: entered by whoever runs the training.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        world: World,
        *,
        saver: AsyncSaver,
        kept: Kept,
        source: StateSource,
        facts: Callable[[Position, str, BestFact | None], dict[str, Any]],
        measured: Measured,
        best: BestFact | None,
        saved_step: int | None,
        last_step: int,
        signals: SignalWatch,
        display: Display,
    ) -> None:
        self._config, self._world = config, world
        self._saver, self._kept, self._source, self._facts = saver, kept, source, facts
        self._measured, self._signals, self._display = measured, signals, display
        self._best = self._committed_best = best if best is not None and best.metric == config.best else None
        self._saving_best: BestFact | None = None  # measured where the save in flight was begun
        self._kept.best_step = None if self._best is None else self._best.step
        self._saved_step = self._committed_step = saved_step  # the first may be in flight yet
        self._last_step = last_step
        self._wanted = ""  # why to save at the next pause
        self._last_save_s = self._last_poll_s = time.monotonic()
        self._last_poll_step = self._next_poll_step = 0

    def on_start(self, position: Position) -> None:
        """Take the memory for copies of the state, so that the first save stalls training no longer than others."""
        self._saver.reserve(self._source.collect()[0])
        self._last_save_s = self._last_poll_s = time.monotonic()
        self._last_poll_step, self._next_poll_step = position.step, position.step + 1

    def next_pause(self, step: int) -> int | None:
        """The next multiple of ``every_steps``."""
        return multiple_after(step, self._config.every_steps) if self._config.every_steps else None

    def pauses_now(self, position: Position) -> bool:
        """Whether any rank was asked to save, or time is up."""
        self._tell()
        if position.step < self._next_poll_step:
            return False
        self._poll(position)
        return bool(self._wanted)

    def on_pause(self, position: Position) -> str | None:
        """Save if there is a reason to; leave training where a signal asks for it.

        Raises:
            StoppedBySignal: on every rank, after saving.
            CheckpointError: a save failed that must not.
            DivergedError: training could not go on from the state; on every rank, instead of saving it.
        """
        self._look_at(position)
        stop = self._poll(position)  # an evaluation may have taken long
        if stop:
            self._save_and_leave(position, stop)
        if self._wanted and position.step < self._last_step:  # what other hooks do at the end is saved with it
            self._save(position, self._wanted, tolerant=self._tolerant)
        return None

    def on_end(self, position: Position, reason: str) -> None:
        """Save what training has come to, and wait until it is written.

        Raises:
            StoppedBySignal: on every rank, if a signal asks for that rather than for what follows training.
            CheckpointError: the last save failed.
        """
        self._look_at(position)
        if self._config.at_end:
            self._wanted = "end"
        if self._wanted:
            self._save(position, self._wanted)
        self._finish(tolerant=False)
        if stop := self._poll(position):
            self._save_and_leave(position, stop)

    @property
    def _tolerant(self) -> bool:
        return self._config.on_failure == "continue"

    def _look_at(self, position: Position) -> None:
        """Whether this position is to be saved by itself."""
        every = self._config.every_steps
        if every and position.step % every == 0:
            self._wanted = self._wanted or f"every {every} steps"
        if self._is_best(position):
            self._wanted = "best"

    def _poll(self, position: Position) -> int:
        """Agree on what is wanted and when to ask again; the signal to stop on, 0 for none."""
        now = time.monotonic()
        minutes = self._config.every_minutes
        due = minutes is not None and now - self._last_save_s >= 60 * minutes
        steps = position.step - self._last_poll_step
        pause_steps = steps * self._config.poll_s / max(now - self._last_poll_s, 1e-6) if steps else 1
        leads = self._world.is_leader
        answers = (
            due and leads,
            self._signals.take_save(),
            self._saver.failure is not None,
            min(max(int(pause_steps), 1), _LONGEST_POLL_STEPS) if leads else 0,
            *(self._signals.stop == number for number in STOPPING),
        )
        said = torch.tensor(answers, dtype=torch.int64, device=self._world.device)
        self._world.collectives.all_reduce_sum_(said)
        is_due, save, failed, next_steps, *stops = said.tolist()
        self._last_poll_s, self._last_poll_step = now, position.step
        self._next_poll_step = position.step + next_steps
        if save:
            self._wanted = self._wanted or "SIGUSR1"
        elif is_due:
            self._wanted = self._wanted or f"every {minutes:g} minutes"
        if failed:
            self._finish(tolerant=self._tolerant)
        stop = next((number for number, asked in zip(STOPPING, stops, strict=True) if asked), 0)
        if stop:
            self._wanted = signal.Signals(stop).name
        return stop

    def _is_best(self, position: Position) -> bool:
        """Whether the evaluation at this position was better than all before."""
        metric, result = self._config.best, self._measured.validation
        if metric is None or result is None or self._measured.validation_step != position.step:
            return False
        value: float | None = getattr(result, metric)
        if value is None:
            return False
        if self._best is not None and not _better(metric, value, self._best.value):
            return self._best.step == position.step and position.step != self._saved_step
        self._best = BestFact(metric=metric, value=value, step=position.step)
        return True

    def _save_and_leave(self, position: Position, stop: int) -> None:
        self._save(position, signal.Signals(stop).name)
        self._finish(tolerant=False)
        raise StoppedBySignal(stop, position.step)

    def _save(self, position: Position, reason: str, *, tolerant: bool = False) -> None:
        self._wanted = ""
        if position.step == self._saved_step:
            return
        self._finish(self._tolerant)  # of the save before, which need not have succeeded for this one to
        self._saving_best = self._best if self._best is not None and self._best.step == position.step else None
        tensors, of_source = self._source.collect()
        facts = {**of_source, **self._facts(position, reason, self._best)}
        try:
            self._saver.save(position.step, tensors, facts)
        except CheckpointError as error:
            self._failed(error, tolerant=tolerant)
        else:
            self._saved_step = position.step
        self._last_save_s = time.monotonic()

    def _finish(self, tolerant: bool) -> None:
        """Wait for the save in flight and tell what became of it."""
        if not self._saver.in_flight:
            return
        try:
            self._saver.wait()
        except CheckpointError as error:
            self._failed(error, tolerant=tolerant)
        else:
            self._committed_step = self._saved_step
            self._source.settled(self._saver.last)
            if self._saving_best is not None:  # not before, or a save that fails would cost the best before
                self._committed_best, self._kept.best_step = self._saving_best, self._saving_best.step
        self._tell()

    def _failed(self, error: CheckpointError, *, tolerant: bool) -> None:
        if isinstance(error, DivergedStateError):  # the loss so far said nothing of the step just made
            last = "" if self._committed_step is None else f"; --resume auto goes on from step {self._committed_step}"
            raise DivergedError(f"step {self._saved_step}: the state is not saved, because {error.problem}{last}")
        self._source.settled(None)
        self._saved_step = None  # this position may be saved yet
        if self._best is self._saving_best:  # what no checkpoint holds is not to be beaten
            self._best = self._committed_best
        if not tolerant:
            raise error
        self._display.say(f"warning: {error}; training goes on, without a newer checkpoint")

    def _tell(self) -> None:
        while self._kept.reports:
            report = self._kept.reports.pop(0)
            stall = f"training stood {report.stalled_s:.2f} s"
            self._display.say(f"step {report.step}: saved {report.path} ({stall}, written in {report.written_s:.1f} s)")
        while self._kept.warnings:
            self._display.say(f"warning: {self._kept.warnings.pop(0)}")


def _better(metric: str, value: float, than: float) -> bool:
    return value > than if _HIGHER_IS_BETTER[metric] else value < than
