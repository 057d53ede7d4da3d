"""The loop. It drives a stepper and hooks and knows neither model nor files.

On an error nothing is caught here: no collective may follow a failure, so the rank leaves, and the launcher ends the
others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from dlrm.data.batch import Batch
from dlrm.data.loader import BatchLoader
from dlrm.train.hooks import Hook
from dlrm.train.schedule import Position, Schedule
from dlrm.train.stepper import Stepper


class Trainer:
    """Trains to the end of a schedule.

    Args:
        stepper: trains batches.
        loader: gives them, at any position, in the order of the schedule.
        schedule: how much to train.
        hooks: told of everything, in this order.
        start: what has been trained before.

    Attributes:
        position: how far training has come.
    """

    def __init__(
        self,
        stepper: Stepper,
        loader: BatchLoader,
        schedule: Schedule,
        hooks: Sequence[Hook],
        start: Position,
    ) -> None:
        self._stepper = stepper
        self._loader = loader
        self._schedule = schedule
        self._hooks = hooks
        self._cut = False
        self.position = start

    def fit(self) -> str:
        """Train to the end and return the reason for which training ended."""
        found = [hook.on_start(self.position) for hook in self._hooks]
        reason = self._stop_reason() or next((wish for wish in found if wish), None)
        while reason is None:
            for hook in self._hooks:
                hook.before_steps(self.position)
            self._train_until(self._next_pause())
            wishes = (hook.on_pause(self.position) for hook in self._hooks)  # the first that asks to stop is the last
            reason = next((wish for wish in wishes if wish), None) or self._stop_reason()
        for hook in self._hooks:
            hook.on_end(self.position, reason)
        return reason

    def _stop_reason(self) -> str | None:
        return self._schedule.stop_reason(self.position.step)

    def _next_pause(self) -> int:
        """The step at which to pause next: the end of the epoch or of the run, or what a hook wants before."""
        step = self.position.step
        wishes = (hook.next_pause(step) for hook in self._hooks)
        return min([self._schedule.next_end(step), *(wish for wish in wishes if wish is not None)])

    def _train_until(self, step: int) -> None:
        here = self.position
        batches = self._loader.batches(here.epoch, here.batch, here.batch + step - here.step)
        self._cut = False
        for output in self._stepper.train(self._until_cut(batches), first_step=here.step + 1):
            self.position = self._schedule.position(self.position.step + 1)
            for hook in self._hooks:
                hook.on_step(self.position, output)
            # The pipeline of every rank has taken equally many batches by now, so that to take no more of them makes every
            # rank end after the same one.
            for hook in self._hooks:  # all of them, because asking may be a collective
                self._cut |= hook.pauses_now(self.position)

    def _until_cut(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        with closing(batches):  # type: ignore[type-var]  # it is a generator
            for batch in batches:
                yield batch
                if self._cut and batch.ends_step:
                    return
