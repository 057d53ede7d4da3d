"""How far the passes over the samples have come, for the display."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from dlrm.data.batch import Batch
from dlrm.data.order import SampleOrder
from dlrm.run.console import Display, Status
from dlrm.train.evaluator import Watcher
from dlrm.train.stepper import StepOutput


class Progress(Watcher):
    """Shows batches done of how many.

    Args:
        display: where to.
        order: of the samples.
        passes: over them.
        what: is done.
    """

    def __init__(self, display: Display, order: SampleOrder, *, passes: int, what: str) -> None:
        self._display, self._order, self._what = display, order, what
        self._total = passes * order.num_batches
        self._done = self._samples = 0
        self._started_s = time.monotonic()

    def step(self) -> None:
        """One batch is done."""
        self._samples += self._order.samples_in(self._done % self._order.num_batches)
        self._done += 1
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        self._display.status(Status(self._done, self._total, None, self._samples / elapsed_s, self._what))

    def passing(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, each of which is done when the next is asked for."""
        for batch in batches:
            yield batch
            self.step()

    def scored(self, output: StepOutput) -> None:
        """One batch is done."""
        self.step()


class Watchers(Watcher):
    """Several that see the same."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = watchers

    def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Past all of them."""
        for watcher in self._watchers:
            batches = watcher.batches(batches)
        return batches

    def scored(self, output: StepOutput) -> None:
        """Tell all of them."""
        for watcher in self._watchers:
            watcher.scored(output)
