"""How long ago ranks were last heard, although the clocks of hosts and of a file system differ.

At the first look there is nothing but the time of a file and the clock of this host. Whoever has seen a beat change has
measured its age himself, and whoever has watched it stay the same knows that it is at least as old as that. So a verdict
that hangs on the clock is put off until the beat was watched for a while (:func:`is_doubtful`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dlrm.checkpoint.owner import process_lives
from dlrm.run.status.files import Beat

Process = Literal["lives", "stopped", "gone", "unknown"]
_MISSED_BEATS = 4
_SHORTEST_SILENCE_S = 10.0
_LARGEST_SKEW_S = 600.0
_AHEAD_S = 2.0


def silence_s(beat: Beat) -> float:
    """Seconds after which a rank that beats no more is silent; a busy host or file system delays a beat or two."""
    return max(_SHORTEST_SILENCE_S, _MISSED_BEATS * beat.every_s)


@dataclass
class _Seen:
    key: tuple[float, int, int]  # start, process, number of the beat
    at_s: float
    changed: bool


class Ages:
    """The ages of beats, the better known the longer it looks at them.

    Args:
        wall, steady: clocks, as of :func:`time.time` and :func:`time.monotonic`.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._steady = wall, steady
        self._seen: dict[int, _Seen] = {}

    def look(self, beats: Iterable[Beat]) -> None:
        """Take notice of beats as they are now."""
        for beat in beats:
            key, seen = (beat.start_s, beat.pid, beat.number), self._seen.get(beat.rank)
            if seen is None or seen.key != key:
                self._seen[beat.rank] = _Seen(key, self._steady(), changed=seen is not None)

    def of(self, beat: Beat) -> float:
        """Seconds since a beat that was looked at."""
        seen = self._seen[beat.rank]
        watched_s = self._steady() - seen.at_s
        return watched_s if seen.changed else max(watched_s, self.by_clock(beat.written_s))

    def by_clock(self, time_s: float) -> float:
        """Seconds since a time of the file system, negative where its clock is ahead."""
        return self._wall() - time_s

    def watched_s(self, beat: Beat) -> float | None:
        """Seconds for which a beat was seen to stay the same; None if it was seen to change."""
        seen = self._seen[beat.rank]
        return None if seen.changed else self._steady() - seen.at_s


def is_doubtful(beat: Beat, ages: Ages) -> bool:
    """Whether it takes another look to say if a rank is silent."""
    if beat.ended or process_of(beat) != "unknown":
        return False
    watched_s, by_clock_s = ages.watched_s(beat), ages.by_clock(beat.written_s)
    if watched_s is None or -_AHEAD_S <= by_clock_s <= silence_s(beat) or by_clock_s > _LARGEST_SKEW_S:
        return False
    enough_s = silence_s(beat) if by_clock_s < 0 else 2 * beat.every_s + 1  # the clocks differ, or it does seem silent
    return watched_s <= enough_s


def process_of(beat: Beat) -> Process:
    """What is known of a rank's process: more than nothing on its own host only, and outside of containers."""
    lives = process_lives(beat.process)
    if lives is None:
        return "unknown"
    if not lives:
        return "gone"
    return "stopped" if _state(beat.pid) in ("T", "t") else "lives"


def launcher_lives(mark: str) -> bool | None:
    """Whether the process with a mark (:func:`~dlrm.checkpoint.owner.process_mark`) lives; None where that is not known."""
    place, pid, started = [*mark.rsplit(" ", 2), "", ""][:3]
    if not (pid.isdecimal() and started.isdecimal()):
        return None
    owner: dict[str, Any] = {"place": place, "pid": int(pid), "started": int(started)}
    return process_lives(owner)


def _state(pid: int) -> str:
    try:
        return Path(os.path.join("/proc", str(pid), "stat")).read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
