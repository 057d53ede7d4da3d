"""What ended a start of all ranks: the cause, and not what followed from it.

A rank that fails ends all others, which say so in their own words. So what a rank found itself comes before what it found
out about others, whenever it was written: clocks differ between hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dlrm.run.heartbeat import FINISHED
from dlrm.run.status.files import End

Kind = Literal["finished", "failed", "stopped"]
USER = "user"
_CAUSES = (USER, "bug")
_CONSEQUENCES = ("peer", "timeout")  # beside those that a launcher has ended because of another
_INTERRUPT = "interrupt"


@dataclass(frozen=True)
class Fault:
    """What went wrong first.

    Attributes:
        rank: whose error it is, and host; line: what it says; log: the file to read, in the run's folder.
        time_s: on that host's clock, None where the rank could not say; by_user: whether the user has to mend it.
    """

    rank: int
    host: str
    line: str
    log: str
    time_s: float | None = None
    by_user: bool = False


@dataclass(frozen=True)
class Lost:
    """A rank that has not said how it ended.

    Attributes:
        doing: what it was heard to do last, after a space and in parentheses.
    """

    rank: int
    host: str = "?"
    doing: str = ""


@dataclass(frozen=True)
class Ending:
    """How a start ended.

    Attributes:
        text: in words; fault: the first one, if it failed.
    """

    kind: Kind
    text: str
    fault: Fault | None = None


def ending(ends: Iterable[End], lost: Sequence[Lost]) -> Ending | None:
    """How a start ended, None if nobody has said anything.

    Args:
        ends: of its ranks.
        lost: ranks that have not said anything and are heard no more, the lowest first.
    """
    told = sorted(ends, key=lambda end: end.time_s)
    if finished := next((end for end in told if end.kind == FINISHED), None):
        return Ending("finished", finished.line)
    if causes := [end for end in told if end.kind in _CAUSES]:  # several where ranks have found the same together
        return _failed(min((end for end in causes if _line(end) == _line(causes[0])), key=lambda end: end.rank))
    if interrupts := [end for end in told if end.kind == _INTERRUPT]:
        return _stopped(min(interrupts, key=lambda end: end.rank))
    if told and lost:
        return _lost(lost[0], stuck=all(end.kind == "timeout" for end in told))
    if others := [end for end in told if end.kind in _CONSEQUENCES]:
        return _failed(others[0])
    return _stopped(min(told, key=lambda end: end.rank)) if told else None


def _failed(end: End) -> Ending:
    line = _line(end)
    text = line if not end.rank or line.startswith("rank ") else f"rank {end.rank}: {line}"
    return Ending("failed", text, Fault(end.rank, end.host, line, log_name(end.rank), end.time_s, end.kind == USER))


def _line(end: End) -> str:
    """What a rank said, without its name, by which the same would differ between ranks."""
    line = " ".join(part.strip() for part in end.line.splitlines())
    return line.removeprefix(f"rank {end.rank}: ") or f"rank {end.rank} failed"


def _lost(one: Lost, *, stuck: bool) -> Ending:
    if stuck:
        line = f"did not answer any more{one.doing}: stuck, or its host is lost"
    else:
        line = f"ended without a word{one.doing}: killed, out of memory perhaps, or its host is lost"
    return Ending("failed", f"rank {one.rank} {line}", Fault(one.rank, one.host, line, log_name(one.rank)))


def _stopped(end: End) -> Ending:
    if end.line.startswith("stopped by"):
        return Ending("stopped", end.line)
    after = f" after step {end.step}" if end.step else ""
    return Ending("stopped", f"stopped by {end.signal or 'a signal'}{after}")


def log_name(rank: int) -> str:
    """A rank's log, in the run's folder."""
    return f"log/rank{rank}.log"
