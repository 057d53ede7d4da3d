"""Trained samples and steps per second, with evaluation and other pauses left out.

Terms: *training time* is time outside of :meth:`ThroughputMeter.paused`; a *window* lasts from one
:meth:`ThroughputMeter.mark` to the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Throughput:
    """What was trained in how much training time.

    Attributes:
        samples: trained samples.
        steps: trained global batches.
        elapsed_s: training time in seconds.
    """

    samples: int = 0
    steps: int = 0
    elapsed_s: float = 0.0

    @property
    def samples_per_s(self) -> float:
        """Samples per second of training time; 0 where no time has passed."""
        return self.samples / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def steps_per_s(self) -> float:
        """Steps per second of training time; 0 where no time has passed."""
        return self.steps / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def __add__(self, other: Throughput) -> Throughput:
        return Throughput(self.samples + other.samples, self.steps + other.steps, self.elapsed_s + other.elapsed_s)


class ThroughputMeter:
    """Counts what is trained, from its construction on."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start the first window.

        Args:
            clock: seconds that never run backwards.
        """
        self._clock = clock
        self._before = Throughput()  # all windows that were closed
        self._samples = 0
        self._steps = 0
        self._elapsed_s = 0.0  # of this window, up to _running_since
        self._running_since = clock()
        self._pauses = 0

    def restart(self, before: Throughput | None = None) -> None:
        """Forget everything but what was trained ``before`` by others, and start the first window now."""
        self._before = before or Throughput()
        self._samples, self._steps, self._elapsed_s = 0, 0, 0.0
        self._running_since = self._clock()
        self._pauses = 0

    def stop(self) -> None:
        """Close the last window: no more time counts."""
        self._elapsed_s = self.window().elapsed_s
        self._pauses += 1

    def count(self, samples: int, steps: int = 1) -> None:
        """Add trained samples (of all ranks together, or of one; the rates then mean the same) and steps."""
        self._samples += samples
        self._steps += steps

    def window(self) -> Throughput:
        """What was trained since the last mark."""
        running_s = 0.0 if self._pauses else self._clock() - self._running_since
        return Throughput(self._samples, self._steps, self._elapsed_s + running_s)

    def overall(self) -> Throughput:
        """What was trained since construction."""
        return self._before + self.window()

    def mark(self) -> Throughput:
        """Close the window, return it and start the next one."""
        window = self.window()
        self._before = self._before + window
        self._samples, self._steps, self._elapsed_s = 0, 0, 0.0
        self._running_since = self._clock()
        return window

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside does not count; may be nested."""
        if self._pauses == 0:
            self._elapsed_s = self.window().elapsed_s
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            if self._pauses == 0:
                self._running_since = self._clock()
