"""The hook that saves: every so many steps or minutes, when a signal asks for it, after the best evaluation, at the end.

Clocks differ between ranks and signals reach them at different times, so ranks agree: about every second of training they
add up who wants what (one all-reduce of a few numbers), and pause together if anybody wants a save.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import torch

from dlrm import activity
from dlrm.checkpoint.retention import RetentionPolicy
from dlrm.checkpoint.saver import AsyncSaver
from dlrm.checkpoint.soundness import DivergedStateError
from dlrm.config.checkpoint import CheckpointConfig
from dlrm.config.metrics import is_better
from dlrm.distributed.world import World
from dlrm.errors import CheckpointError, DivergedError, StoppedBySignal
from dlrm.metrics.tasks import deciding
from dlrm.run.console import Display
from dlrm.signals import STOPPING, SignalWatch
from dlrm.train.checkpointing.provider import StateProvider
from dlrm.train.checkpointing.train_state import Best
from dlrm.train.hooks import Hook, multiple_after
from dlrm.train.schedule import Position
from dlrm.train.standard_hooks import Measured

_LONGEST_POLL_STEPS = 10_000


class CheckpointHook(Hook):
    """Saves checkpoints behind training.

    Args:
        config: when.
        saver: writes; retention: its callback.
        provider: what to write; metadata: makes what is written beside it.
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
        retention: RetentionPolicy,
        provider: StateProvider,
        metadata: Callable[[Position, str, Best | None], dict[str, Any]],
        measured: Measured,
        best: Best | None,
        saved_step: int | None,
        last_step: int,
        signals: SignalWatch,
        display: Display,
    ) -> None:
        self._config, self._world = config, world
        self._saver, self._retention, self._provider, self._metadata = saver, retention, provider, metadata
        self._measured, self._signals, self._display = measured, signals, display
        self._best = self._committed_best = best if best is not None and best.metric == config.best else None
        self._saving_best: Best | None = None  # measured where the save in flight was begun
        self._retention.best_step = None if self._best is None else self._best.step
        self._saved_step = self._committed_step = saved_step  # the first may be in flight yet
        self._last_step = last_step
        self._wanted = ""  # why to save at the next pause
        self._last_save_s = self._last_poll_s = time.monotonic()
        self._last_poll_step = self._next_poll_step = 0

    def on_start(self, position: Position) -> None:
        """Take the memory for copies of the state, so that the first save stalls training no longer than others."""
        self._saver.reserve(self._provider.collect()[0])
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
        said = torch.tensor(answers, dtype=torch.int64)  # on the host: a device would have to be waited for
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
        metric, results = self._config.best, self._measured.validation
        if metric is None or results is None or self._measured.validation_step != position.step:
            return False
        value: float | None = getattr(deciding(results), metric)
        if value is None:
            return False
        if self._best is not None and not is_better(metric, value, self._best.value):
            return self._best.step == position.step and position.step != self._saved_step
        self._best = Best(metric=metric, value=value, step=position.step)
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
        tensors, of_provider = self._provider.collect()
        metadata = {**of_provider, **self._metadata(position, reason, self._best)}
        try:
            with activity.during(activity.SAVING):
                self._saver.save(position.step, tensors, metadata)
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
            with activity.during(activity.SAVING):
                self._saver.wait()
        except CheckpointError as error:
            self._failed(error, tolerant=tolerant)
        else:
            self._committed_step = self._saved_step
            self._provider.on_saved(self._saver.last)
            if self._saving_best is not None:  # not before, or a save that fails would cost the best before
                self._committed_best, self._retention.best_step = self._saving_best, self._saving_best.step
        self._tell()

    def _failed(self, error: CheckpointError, *, tolerant: bool) -> None:
        if isinstance(error, DivergedStateError):  # the loss so far said nothing of the step just made
            last = "" if self._committed_step is None else f"; --resume auto goes on from step {self._committed_step}"
            raise DivergedError(f"step {self._saved_step}: the state is not saved, because {error.problem}{last}")
        self._provider.on_saved(None)
        self._saved_step = None  # this position may be saved yet
        if self._best is self._saving_best:  # what no checkpoint holds is not to be beaten
            self._best = self._committed_best
        if not tolerant:
            raise error
        self._display.say(f"warning: {error}; training goes on, without a newer checkpoint")

    def _tell(self) -> None:
        while self._retention.reports:
            report = self._retention.reports.pop(0)
            stall = f"training stood {report.stalled_s:.2f} s"
            self._display.say(f"step {report.step}: saved {report.path} ({stall}, written in {report.written_s:.1f} s)")
        while self._retention.warnings:
            self._display.say(f"warning: {self._retention.warnings.pop(0)}")
