"""How ranks ended, on this host or on another, and which of their ends is the cause of the others.

Free of torch, so that the launcher need not wait for it.
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

USER_ERROR_EXIT_CODE = 2  # as in dlrm/errors.py
STOP = "stop"  # kind of what a launcher says that was told to stop
# Not SIGABRT: by it NCCL's watchdog ends a rank that has waited for another one in vain.
_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_MOST_TOLD = 8
_CAUSE, _PERHAPS, _STOPPED, _OF_PEER, _REST = range(5)


@dataclass(frozen=True)
class Failure:
    """How one rank ended.

    Attributes:
        rank: global rank.
        exit_code: of its process; negative: the signal that ended it.
        time_s: when, seconds since the epoch; whole seconds where the rank could not say.
        kind: user, interrupt, peer, timeout or bug as in dlrm/command/failure.py; stop if it is no rank's end, but a
            launcher's that was told to stop; empty if the rank wrote no report.
        line, details: what to print.
        ended: by its launcher, because another rank had failed.
        host: where, if it is another host.
        called: the last collectives of a rank that waited in vain: group, number in the group and name of each.
        caller: where in the program it waited.
    """

    rank: int
    exit_code: int
    time_s: float
    kind: str = ""
    line: str = ""
    details: str = ""
    ended: bool = False
    host: str = ""
    called: Sequence[tuple[str, int, str]] = ()
    caller: str = ""

    @classmethod
    def of(cls, rank: int, exit_code: int, time_s: float, report: Mapping[str, Any], ended: bool = False) -> Failure:
        """From what torchelastic knows; ``report`` is the content of the rank's error file."""
        told = report.get("dlrm")
        if isinstance(told, dict):
            names = ("time_s", "kind", "line", "details")
            waited = {name: told[name] for name in ("called", "caller") if name in told}
            return cls(rank, exit_code, ended=ended, **{name: told[name] for name in names}, **waited)
        message = report.get("message")
        if isinstance(message, dict):  # a script that uses torchelastic's own @record
            callstack = str(message.get("extraInfo", {}).get("py_callstack", ""))
            return cls(rank, exit_code, time_s, "bug", f"rank {rank} failed: {message.get('message')}", callstack)
        return cls(rank, exit_code, time_s, ended=ended)

    @property
    def code(self) -> int:
        """The exit code of a launcher whose job ended because of this."""
        return self.exit_code if self.exit_code > 0 else 128 - self.exit_code

    @property
    def is_cause(self) -> bool:
        """Whether it can be what others follow from, and not only their consequence."""
        return self.order()[0] <= _STOPPED

    def order(self) -> tuple[int, float]:
        """Sorts the failure that began it all first: causes, then what may be one, then consequences."""
        if self.kind in ("user", "bug") or -self.exit_code in _FAULTS or (self.exit_code > 0 and not self.kind):
            return _CAUSE, self.time_s
        if self.exit_code < 0 and not self.ended:
            return _PERHAPS, self.time_s
        if self.kind == STOP:
            return _STOPPED, self.time_s
        return (_OF_PEER if self.kind in ("peer", "timeout") else _REST), self.time_s

    def text(self) -> str:
        """What to print, ending with one line that says what happened; empty if the rank has said it."""
        said = self._said()
        return f"host {self.host}{' ' if self.kind == STOP else ': '}{said}" if self.host and said else said

    def _said(self) -> str:
        if self.kind:
            return self.details + (f"{self.line}\n" if self.line else "")
        if self.exit_code > 0:
            return f"rank {self.rank} failed: exit code {self.exit_code}\n"
        name = signal.Signals(-self.exit_code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"rank {self.rank} was killed by {name}{hint}\n"


class Others(Protocol):
    """What the launchers of other hosts say; see launch/causes.py."""

    host: str
    failures: list[Failure]
    job_ended: bool

    def say(self, failures: Sequence[Failure], *, final: bool) -> None:
        """Tell them how ranks of this host have ended."""

    def look(self) -> None:
        """Read what is new."""

    def wait_for_cause(self) -> None:
        """Wait for them to say what began it all."""

    def end_with_job(self) -> None:
        """Raise what ends this launcher if one of them has ended the job."""

    def wait_until_told(self) -> None:
        """Wait until they know that the job has ended, if it has."""


class NoOthers:
    """Nobody is there to be told or to be heard."""

    host = ""
    job_ended = False

    def __init__(self) -> None:
        self.failures: list[Failure] = []

    def say(self, failures: Sequence[Failure], *, final: bool) -> None:
        """To nobody."""

    def look(self) -> None:
        """Nobody says anything."""

    def wait_for_cause(self) -> None:
        """None can come."""

    def end_with_job(self) -> None:
        """Nobody can end it."""

    def wait_until_told(self) -> None:
        """Nobody has to be."""


def cause(failures: Collection[Failure]) -> str:
    """What to print: what the rank that failed first has to say, and, if it waited in vain, for whom or for what."""
    first = min(failures, key=Failure.order)
    if first.kind in ("timeout", "peer") and (apart := differing_collectives(failures)):
        return f"{apart}; {first.text()}"
    silent = [str(failure.rank) for failure in failures if failure.ended and not failure.kind]
    if first.kind == "timeout" and silent:
        ranks = "rank " + silent[0] if len(silent) == 1 else "ranks " + ", ".join(silent)
        return f"{ranks} did not answer, stuck or too slow: {first.text()}"
    return first.text()


def differing_collectives(failures: Collection[Failure]) -> str:
    """That ranks have called different collectives and so wait for each other for ever, in words; empty if not."""
    names: dict[tuple[str, int], dict[int, str]] = {}
    for failure in failures:
        for group, number, name in failure.called:
            names.setdefault((group, number), {})[failure.rank] = name
    apart = [place for place, by_rank in names.items() if len(set(by_rank.values())) > 1]
    if not apart:
        return ""
    first = names[min(apart, key=lambda place: place[1])]
    callers = {failure.rank: failure.caller for failure in failures}
    places = {rank: f" at {place}" if place else "" for rank, place in callers.items()}
    told = [f"rank {rank} {name}{places[rank]}" for rank, name in sorted(first.items())]
    shown = told if len(told) <= _MOST_TOLD else [*told[:_MOST_TOLD], f"and {len(told) - _MOST_TOLD} more"]
    return f"ranks called different collectives: {', '.join(shown)}"
