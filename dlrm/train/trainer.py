"""The loop. It drives a stepper and hooks and knows neither model nor files.

On an error nothing is caught here: no collective may follow a failure, so the rank leaves, and the launcher ends the
others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from dlrm.data.batch import Batch
from dlrm.data.loader import BatchLoader
from dlrm.train.hooks import Hook, Position
from dlrm.train.stepper import Stepper

ALL_EPOCHS = "all epochs trained"
MAX_STEPS = "train.max_steps reached"


class Trainer:
    """Trains for a number of epochs.

    Args:
        stepper: trains batches.
        loader: gives them, at any position.
        hooks: told of everything, in this order.
        epochs: passes over the samples.
        max_steps: stop after this many steps of the run, if given.
    """

    def __init__(
        self, *, stepper: Stepper, loader: BatchLoader, hooks: Sequence[Hook], epochs: int, max_steps: int | None = None
    ) -> None:
        self._stepper = stepper
        self._loader = loader
        self._hooks = hooks
        self._epochs = epochs
        self._max_steps = max_steps
        self._cut = False
        self.position = Position()

    @property
    def total_steps(self) -> int:
        """Steps of the whole run if nothing stops it early."""
        steps = self._epochs * self._loader.order.num_batches
        return steps if self._max_steps is None else min(steps, self._max_steps)

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
        if self.position.epoch >= self._epochs:
            return ALL_EPOCHS
        if self._max_steps is not None and self.position.step >= self._max_steps:
            return MAX_STEPS
        return None

    def _next_pause(self) -> int:
        """The step at which to pause next: the end of the epoch or what a hook or the limit wants before."""
        step = self.position.step
        epoch_end = step + self._loader.order.num_batches - self.position.batch
        wishes = [hook.next_pause(step) for hook in self._hooks] + [self._max_steps]
        return min([epoch_end, *(wish for wish in wishes if wish is not None)])

    def _train_until(self, step: int) -> None:
        here = self.position
        batches = self._loader.batches(here.epoch, here.batch, here.batch + step - here.step)
        self._cut = False
        for output in self._stepper.train(self._until_cut(batches), first_step=here.step + 1):
            self._advance()
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
                if self._cut:
                    return

    def _advance(self) -> None:
        here, order = self.position, self._loader.order
        trained = replace(
            here,
            batch=here.batch + 1,
            step=here.step + 1,
            samples=here.samples + order.samples_in(here.batch),
            epoch_ended=False,
        )
        if trained.batch == order.num_batches:
            trained = replace(trained, epoch=here.epoch + 1, batch=0, epoch_ended=True)
        self.position = trained
