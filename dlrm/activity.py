"""What this process is doing and when it last got on with it, for whoever watches it from another thread.

There is one activity a process, as it has one title: whoever does something that may last says so here, and need not be
handed anything for it. :mod:`dlrm.run.heartbeat` reads it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, TypeVar

STARTING = "starting"
TRAINING = "training"
EVALUATING = "evaluating"
SAVING = "saving"
FINISHING = "finishing"
READER_THREADS = "read-ahead"
"""What the names of threads begin with that read what is waited for."""
READING = "waiting for data"

T = TypeVar("T")


@dataclass
class Activity:
    """What is done; written by the main thread only, each attribute at once.

    Attributes:
        doing: in a word or three; step: trained global batches of the run.
        progress_s: when something was last got done, on the clock :func:`time.monotonic`.
    """

    doing: str = STARTING
    step: int = 0
    progress_s: float = field(default_factory=time.monotonic)


now = Activity()
"""This process's."""


def begin(doing: str, step: int | None = None) -> None:
    """From here on ``doing`` is done, until something else is."""
    now.doing = doing
    advance(step)


def advance(step: int | None = None) -> None:
    """Something was got done, up to ``step`` of training if that is given."""
    if step is not None:
        now.step = step
    now.progress_s = time.monotonic()


class during:  # noqa: N801  # reads as ``with activity.during(...)``
    """Inside of the block ``doing`` is done, after it what was done before."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        self._before = now.doing
        begin(self._doing)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        begin(self._before)


class Awaited(Iterator[T], Generic[T]):
    """The same items, and as long as one is waited for, the activity is :data:`READING`.

    Args:
        items: what to iterate over.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items

    def __next__(self) -> T:
        before = now.doing
        begin(READING)
        try:
            item = next(self._items)
        except StopIteration:
            begin(before)
            raise
        begin(before)
        return item
