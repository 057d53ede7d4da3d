"""What a sink is, and what keeps its failures and its waiting from training."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from dlrm.run.secondary import Warn, reason

_LOG = logging.getLogger(__name__)
_MOST_WAITING = 10_000  # entries
_PATIENCE_S = 30.0  # at the end of a run


class Sink(Protocol):
    """Takes entries. It may raise anything and wait for anything: :class:`Background` stands between it and training."""

    def record(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of an entry of a kind (``train``, ``validation/click``) at a step."""

    def close(self) -> None:
        """The run is finished; write what is outstanding."""


class Background:
    """Hands entries to a sink in a thread of its own. The first error ends the sink, is told once, and ends nothing else.

    Args:
        name: of the sink, for messages.
        open_sink: makes it; called in the thread, because a service may not answer.
        warn: told why no more entries go there.
        patience_s: of the end of the run with what is outstanding.
    """

    def __init__(
        self, name: str, open_sink: Callable[[], Sink], warn: Warn, *, patience_s: float = _PATIENCE_S
    ) -> None:
        self._name, self._open, self._warn, self._patience_s = name, open_sink, warn, patience_s
        self._entries: queue.Queue[tuple[str, int, dict[str, float]] | None] = queue.Queue(_MOST_WAITING)
        self._lost = False
        self._thread = threading.Thread(target=self._work, name=f"sink {name}", daemon=True)
        self._thread.start()

    def record(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """Leave an entry for the thread."""
        if self._lost:
            return
        try:
            self._entries.put_nowait((kind, step, dict(numbers)))
        except queue.Full:
            self._lose(f"does not keep up: {_MOST_WAITING:,} entries wait")

    def close(self) -> None:
        """Wait for what is outstanding, and not for long."""
        if self._lost:
            return
        try:
            self._entries.put(None, timeout=self._patience_s)
        except queue.Full:
            self._lose("does not keep up")
            return
        self._thread.join(self._patience_s)
        if self._thread.is_alive():
            self._lose(f"has not taken all entries within {self._patience_s:.0f} s")

    def _work(self) -> None:
        try:
            sink = self._open()
            while (entry := self._entries.get()) is not None:
                if self._lost:
                    return
                sink.record(*entry)
            sink.close()
        except Exception as error:  # whatever a service's client raises: the training it tells of is not to be lost
            _LOG.warning("sink %s", self._name, exc_info=True)
            self._lose(reason(error))

    def _lose(self, why: str) -> None:
        if not self._lost:
            self._lost = True
            self._warn(f"warning: logging.sinks: {self._name}: {why}; no more entries go there, the run goes on")


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """What of an entry is a number."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
