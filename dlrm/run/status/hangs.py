"""Who keeps the others waiting, where training stands still although nobody has said that it ends.

Ranks train in step. One that stands makes all others wait within a step, so that to stand is not what tells it from them:
its process does not beat, or it is doing something else than they are, or it is behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dlrm.activity import READING, STARTING
from dlrm.run.status.ages import Process, silence_s
from dlrm.run.status.files import Beat

_LONG_STEPS = 5  # in which a rank whose steps take long may do one
_LONG_S = 60.0  # for which all ranks may well do the same without getting on
_WAITING = ("distributed/", "torchrec/", "autograd/")  # where a rank is that waits for the others


@dataclass(frozen=True)
class Heard:
    """A rank's last beat, and what is known of it now.

    Attributes:
        age_s: of the beat; process: that has sent it.
    """

    beat: Beat
    age_s: float
    process: Process

    @property
    def is_silent(self) -> bool:
        """Whether it beats no more."""
        return self.process in ("gone", "stopped") or (self.process != "lives" and self.age_s > silence_s(self.beat))

    @property
    def still_s(self) -> float:
        """Seconds since it got on, as far as that is known."""
        return self.beat.still_s + self.age_s

    @property
    def stands(self) -> bool:
        """Whether it has not got on for longer than its steps take."""
        step_s = 1 / self.beat.steps_per_s if self.beat.steps_per_s else 0.0
        return self.still_s > max(silence_s(self.beat), _LONG_STEPS * step_s)


@dataclass(frozen=True)
class Problem:
    """What a person should know.

    Attributes:
        rank: that is named, None for none; text: what is said of it; hangs: whether training stands because of it.
    """

    text: str
    rank: int | None = None
    hangs: bool = False


def problems(heard: Mapping[int, Heard], ranks: int | None) -> list[Problem]:
    """What is wrong with a start that nobody has ended.

    Args:
        heard: its ranks that have sent a beat; one lives at least.
        ranks: how many there are.
    """
    silent = [one for one in heard.values() if one.is_silent]
    others = [one for one in heard.values() if not one.is_silent]
    stands = all(one.stands for one in others)
    missing = sorted(set(range(ranks or 0)) - heard.keys())
    if silent:
        return [_silent(one, stands) for one in silent]
    if not stands:
        return []
    if missing and all(one.still_s > _LONG_S for one in others):
        return [_missing(missing)]
    if found := _odd_ones(others):
        return found
    longest = min(others, key=lambda one: one.still_s)
    if longest.still_s < _LONG_S or longest.beat.doing == STARTING:
        return []
    text = f"no rank has got on for {longest.still_s:.0f} s; all are {_doing(longest.beat)}{_place(longest.beat)}"
    return [Problem(text)]


def who(beat: Beat) -> str:
    """A rank as messages name it."""
    return f"rank {beat.rank} (host {beat.host}, pid {beat.pid})"


def _silent(one: Heard, stands: bool) -> Problem:
    beat = one.beat
    why = {
        "gone": "its process is gone",
        "stopped": "its process is stopped (SIGSTOP, a debugger)",
        "lives": "",
        "unknown": "its process or its host is stopped, lost or cannot write here",
    }[one.process]
    text = f"{who(beat)} was last heard {one.age_s:.0f} s ago, {_doing(beat)}: {why}"
    if not stands and one.process == "unknown":
        return Problem(f"{text}; the others get on", beat.rank)
    return Problem(text, beat.rank, hangs=True)


def _missing(missing: Sequence[int]) -> Problem:
    names = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    text = f"of rank(s) {names} nothing was ever heard: not started, or their host does not share this folder"
    return Problem(text, missing[0], hangs=True)


def _odd_ones(heard: Sequence[Heard]) -> list[Problem]:
    """The ranks that differ from the others in what they do, by what tells most."""
    if len(heard) < 2 or any(one.beat.doing == STARTING for one in heard):
        return []
    tests: tuple[Callable[[Heard], bool], ...] = (
        lambda one: one.beat.doing == READING,
        lambda one: one.beat.step < max(other.beat.step for other in heard),
        lambda one: one.beat.doing != _usual(heard),
        lambda one: bool(one.beat.where) and not any(part in one.beat.where[0] for part in _WAITING),
    )
    for test in tests:
        odd = [one for one in heard if test(one)]
        if odd and len(odd) < len(heard):
            return [
                Problem(
                    f"{who(one.beat)} has not got on for {one.still_s:.0f} s, {_doing(one.beat)}{_place(one.beat)}; "
                    "the others wait for it",
                    one.beat.rank,
                    hangs=True,
                )
                for one in odd
            ]
    return []


def _usual(heard: Sequence[Heard]) -> str:
    return Counter(one.beat.doing for one in heard).most_common(1)[0][0]


def _doing(beat: Beat) -> str:
    return f"{beat.doing or 'busy'} after step {beat.step}"


def _place(beat: Beat) -> str:
    return f" (in {beat.where[0]})" if beat.where else ""
