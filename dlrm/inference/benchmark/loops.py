"""How requests are made: one after the other by clients, or by arrivals that wait for nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from dlrm.inference.benchmark.observed import Log, Observed

_POLL_S = 5e-4


class Server(Protocol):
    """What answers."""

    rows: int
    """Of a request."""
    waits: bool
    """Whether :meth:`ask` returns with the answer. Requests that are due meanwhile wait before it, as in a queue."""

    def ask(self, number: int, log: Log) -> None:
        """Have a request answered; the log is told once what became of it, now or later and by any thread."""

    def abandon(self, log: Log) -> None:
        """Nobody waits for the requests of a log any more; return when none of them is being computed or waits."""


def open_loop(
    server: Server,
    log: Log,
    *,
    rate_per_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    cpu_clock: Callable[[], float] = time.process_time,
) -> Observed:
    """Ask each request when it is due, and see what becomes of all; it ends early once the bound cannot be met any more.

    Args:
        server: what answers.
        log: when requests are due, from now on; whose they are.
        rate_per_s: that the arrivals were drawn with, for the record.
        clock: seconds.
        sleep: for so many seconds.
        cpu_clock: processor time of this process.
    """
    start_s, cpu_s = clock(), cpu_clock()
    log.due_s = [start_s + due_s for due_s in log.due_s]
    handed = log.handed_s.append
    for number, due_s in enumerate(log.due_s):
        now_s = clock()
        while now_s < due_s:
            sleep(due_s - now_s)
            now_s = clock()
        if log.hopeless:
            break
        handed(due_s if server.waits else now_s)
        server.ask(number, log)
    while log.told < len(log.handed_s) and not log.hopeless:
        sleep(_POLL_S)
    cpus = (cpu_clock() - cpu_s) / max(clock() - start_s, 1e-9)
    if log.told < len(log.handed_s):
        server.abandon(log)
    return log.observed("open", rows=server.rows, start_s=start_s, cpus=cpus, rate_per_s=rate_per_s)
