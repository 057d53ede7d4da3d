"""Large bodies become features in threads of their own, and are refused where these have too much to do."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dlrm.inference.features import Features
from dlrm.inference.serve.bodies import features_of
from dlrm.inference.serve.refusal import later
from dlrm.inference.serve.waiting import ExpiredError

_THREADS = 2
_NEWEST = 0.2
"""What the newest body counts for in how long bodies take."""


class Parsing:
    """Threads that parse.

    What waits for them is bounded by time, not by number: bodies of a few rows and of thousands come together. How long
    the next one would wait follows from the bytes before it and from how long the last ones took a byte.

    Args:
        most_s: how long a body may have to wait for a thread.
    """

    def __init__(self, most_s: float) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="parse")
        self._most_s = most_s
        self._waiting_bytes = 0  # being parsed included; like the next, touched by the event loop's thread alone
        self._byte_s = 0.0

    async def features(self, size: int, deadline_s: float, *asked: Any) -> Features:
        """What :func:`dlrm.inference.serve.bodies.features_of` makes of a body.

        Args:
            size: bytes of the body.
            deadline_s: when nobody waits for it any more, by the monotonic clock.
            asked: the arguments.

        Raises:
            Refusal: what waits before it takes too long, or it is no body of rows.
            ExpiredError: its time was over when a thread was free.
        """
        wait_s = self._waiting_bytes * self._byte_s / _THREADS
        if wait_s > self._most_s:
            raise later(
                "queue_full", f"bodies of {self._waiting_bytes} bytes wait to be read, for about {wait_s:.1f} s"
            )
        self._waiting_bytes += size
        try:
            loop = asyncio.get_running_loop()
            found, took_s = await loop.run_in_executor(self._pool, _in_time, deadline_s, *asked)
        finally:
            self._waiting_bytes -= size
        self._byte_s += _NEWEST * (took_s / size - self._byte_s)
        if isinstance(found, Exception):
            raise found
        return found


def _in_time(deadline_s: float, *asked: Any) -> tuple[Features | Exception, float]:
    """Features or what was wrong, and how long it took; nothing is parsed that has waited too long."""
    began_s = time.monotonic()
    if began_s > deadline_s:
        raise ExpiredError("waited longer than its time to be parsed")
    try:
        found: Features | Exception = features_of(*asked)
    except Exception as error:
        found = error
    return found, time.monotonic() - began_s
