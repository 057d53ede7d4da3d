"""What state a run is in, from what lies in its folder and how long ago its ranks were heard.

The states:

* *starting*: a start of all ranks has begun, and no rank has been heard yet, or none trains yet;
* *running*: its ranks are heard; *hanging*: training stands, and a rank is named for it;
* *finished*; *stopped*: by a signal, and saved; *failed*: of an error;
* *restarting*: it has failed, or is gone, and its launcher can start the ranks again;
* *dead*: nobody has said how it ended, and no process is heard any more;
* *unknown*: its ranks leave no signs of life (runs of earlier versions, a folder that cannot be written).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from dlrm.activity import STARTING
from dlrm.run.status.ages import Ages, is_doubtful, launcher_lives, process_of
from dlrm.run.status.endings import Ending, Fault, Lost, ending
from dlrm.run.status.files import Beat, Contents, End, Entry, Saved, Start
from dlrm.run.status.hangs import Heard, Problem, problems

State = Literal["starting", "running", "hanging", "finished", "stopped", "failed", "restarting", "dead", "unknown"]
OVER: tuple[State, ...] = ("finished", "stopped", "failed", "dead", "unknown")
_WORDLESS = "ended without a word: killed, or its host was lost"
_STARTING_S = 120.0  # that processes may take to be heard after they have begun to start
_RESTART_S = 120.0  # after a failure, in which a launcher on another host may have started the ranks again


@dataclass(frozen=True)
class StartOf:
    """A start of all ranks: what began it, how it ended, None while it has not, and the first error in it."""

    start: Start
    ending: str | None
    fault: Fault | None


@dataclass(frozen=True)
class Attempt:
    """The work of one job, or of one launcher of it where a scheduler has started the job again.

    Attributes:
        starts: of its ranks; more than one where they were started again.
    """

    starts: tuple[StartOf, ...]


@dataclass(frozen=True)
class Status:
    """What a person wants to know of a run.

    Attributes:
        run: its folder; state: as the module says; text: the state in words.
        step, total_steps: trained and to be trained, as far as known.
        samples_per_s: of the last record; left_s: until the last step, if training gets on.
        train, validation, test: the last entries of metrics.jsonl.
        saved: the newest checkpoint, and its age in seconds.
        attempts: the newest last; ranks: of the last start; problems: of it.
        fault: the first error of the last start.
        heard_s: seconds since any rank was heard.
    """

    run: str
    state: State
    text: str
    step: int | None = None
    total_steps: int | None = None
    samples_per_s: float | None = None
    left_s: float | None = None
    train: Entry | None = None
    validation: Entry | None = None
    test: Entry | None = None
    saved: Saved | None = None
    saved_age_s: float | None = None
    attempts: tuple[Attempt, ...] = ()
    ranks: tuple[Heard, ...] = ()
    problems: tuple[Problem, ...] = ()
    fault: Fault | None = None
    heard_s: float | None = None


def doubtful(contents: Contents, ages: Ages) -> bool:
    """Whether to look again before saying anything."""
    beats = _beats_of(contents, _starts(contents)[-1]) if _starts(contents) else {}
    return any(is_doubtful(beat, ages) for beat in beats.values())


def judge(contents: Contents, ages: Ages) -> Status:
    """The status of a run whose beats ``ages`` has looked at."""
    starts = _starts(contents)
    if not starts:
        return _without_starts(contents, ages)
    start = starts[-1]
    heard = {rank: Heard(beat, ages.of(beat), process_of(beat)) for rank, beat in _beats_of(contents, start).items()}
    end = _ending_of(contents, start, heard)
    found = _problems(end, heard, start)
    state, text = _state(contents, start, heard, end, found, ages)
    beat = heard[min(heard)].beat if heard else None
    saved, train = contents.saved, contents.metrics.get("train")
    return Status(
        run=str(contents.folder),
        state=state,
        text=text,
        step=_step(contents, beat),
        total_steps=None if beat is None else beat.total_steps,
        samples_per_s=None if train is None else train.number("samples_per_s"),
        left_s=_left_s(beat, state),
        train=train,
        validation=contents.metrics.get("validation"),
        test=contents.metrics.get("test"),
        saved=saved,
        saved_age_s=None if saved is None or saved.written_s is None else max(0.0, ages.by_clock(saved.written_s)),
        attempts=tuple(_attempts(contents, starts, text if state in OVER else None, end)),
        ranks=tuple(heard.values()),
        problems=tuple(found),
        fault=None if end is None else end.fault,
        heard_s=_heard_s(contents, heard, ages),
    )


def _starts(contents: Contents) -> list[Start]:
    """The starts that were written down, and one that could not be, if ranks beat for it."""
    starts = list(contents.starts)
    known = {start.time_s for start in starts}
    unknown = [beat for beat in contents.beats.values() if beat.start_s not in known]
    if unknown and not any(starts and beat.start_s == starts[-1].time_s for beat in contents.beats.values()):
        beat = max(unknown, key=lambda beat: beat.start_s)
        starts.append(Start(beat.start_s, beat.host))
    return starts


def _beats_of(contents: Contents, start: Start) -> dict[int, Beat]:
    return {rank: beat for rank, beat in contents.beats.items() if beat.start_s == start.time_s}


def _ending_of(contents: Contents, start: Start, heard: Mapping[int, Heard]) -> Ending | None:
    ends = [end for end in contents.ends if end.start_s == start.time_s]
    told = {end.rank for end in ends}
    for rank, one in heard.items():  # where the list of ends could not be written
        if one.beat.ended and rank not in told and (rank == 0 or one.beat.ended != "finished"):
            ends.append(_end_by(one.beat))
    told |= {end.rank for end in ends}
    if heard:
        lost = [_lost(one.beat) for rank, one in heard.items() if one.is_silent and rank not in told]
    else:  # ranks were started since; those of hosts that do not share the folder would be missing without being lost
        lost = [Lost(rank) for rank in contents.beats if rank < (start.ranks or 0) and rank not in told]
    return ending(ends, lost)


def _lost(beat: Beat) -> Lost:
    doing = f"{beat.doing}, " if beat.doing else ""
    return Lost(beat.rank, beat.host, f" ({doing}after step {beat.step})")


def _end_by(beat: Beat) -> End:
    kind = beat.ended or ""
    return End(beat.start_s, beat.written_s, beat.rank, beat.host, beat.pid, kind, "", None, beat.step)


def _problems(end: Ending | None, heard: Mapping[int, Heard], start: Start) -> list[Problem]:
    active = {rank: one for rank, one in heard.items() if not one.beat.ended}
    if end is not None or not active or all(one.is_silent for one in active.values()):
        return []
    ranks = None if len(active) < len(heard) else start.ranks
    return problems(active, ranks)


def _state(
    contents: Contents,
    start: Start,
    heard: Mapping[int, Heard],
    end: Ending | None,
    found: Sequence[Problem],
    ages: Ages,
) -> tuple[State, str]:
    heard_s = _heard_s(contents, heard, ages)
    if end is not None:
        return _ended(end, start, heard, heard_s)
    active = [one for one in heard.values() if not one.beat.ended]
    silent = all(one.is_silent for one in active)
    if silent and contents.summarised_s is not None and contents.summarised_s >= (contents.begun_s or 0.0):
        return "finished", contents.stopped or "finished"
    if not heard:
        return _unheard(contents, start, ages)
    if silent:
        text = f"nothing was heard for {duration_text(heard_s)}"
        if _may_restart(start, heard) is True:
            return "restarting", f"{text}; its launcher lives and can start the ranks again"
        return "dead", text
    if hanging := next((problem for problem in found if problem.hangs), None):
        return "hanging", hanging.text
    doing = active[0].beat.doing
    return ("starting", "its ranks get ready") if doing == STARTING else ("running", doing)


def _ended(end: Ending, start: Start, heard: Mapping[int, Heard], heard_s: float | None) -> tuple[State, str]:
    if end.kind != "failed":
        return end.kind, end.text
    by_user = end.fault is not None and end.fault.by_user
    may = None if by_user else _may_restart(start, heard)
    left = max((one.beat.restarts_left or 0 for one in heard.values()), default=0)
    if not by_user and left and (may or (may is None and heard_s is not None and heard_s < _RESTART_S)):
        return "restarting", f"{end.text}; its launcher can start the ranks again ({left} more time(s) at most)"
    return "failed", end.text


def _may_restart(start: Start, heard: Mapping[int, Heard]) -> bool | None:
    """Whether a launcher lives that can start the ranks again; None where that cannot be known from here."""
    if not any(one.beat.restarts_left for one in heard.values()):
        return False
    lives = [launcher_lives(mark) for mark in start.launchers]
    return True if True in lives else (None if None in lives else False)


def _unheard(contents: Contents, start: Start, ages: Ages) -> tuple[State, str]:
    begun_s, changed_s = (max(0.0, ages.by_clock(time_s or 0.0)) for time_s in (contents.begun_s, contents.changed_s))
    lives = [launcher_lives(mark) for mark in start.launchers]
    if lives and not any(alive is not False for alive in lives):
        return "dead", f"its launcher is gone; nothing was heard for {duration_text(changed_s)}"
    if begun_s < _STARTING_S:
        return "starting", "no rank was heard yet"
    if start.beats and changed_s > _STARTING_S:
        return "dead", f"it ended before a rank was heard, {duration_text(changed_s)} ago"
    return "unknown", f"its ranks leave no signs of life; its files were last written {duration_text(changed_s)} ago"


def _without_starts(contents: Contents, ages: Ages) -> Status:
    since_s = None if contents.changed_s is None else max(0.0, ages.by_clock(contents.changed_s))
    if contents.summarised_s is not None:
        return Status(str(contents.folder), "finished", contents.stopped or "finished", saved=contents.saved)
    if since_s is None or since_s < _STARTING_S:
        return Status(str(contents.folder), "starting", "nothing is written yet", saved=contents.saved)
    text = f"it has not begun; its files were last written {duration_text(since_s)} ago"
    return Status(str(contents.folder), "unknown", text, saved=contents.saved)


def _heard_s(contents: Contents, heard: Mapping[int, Heard], ages: Ages) -> float | None:
    """Seconds since a rank was heard, or its files were written where none ever was."""
    if heard:
        return min(one.age_s for one in heard.values())
    return None if contents.changed_s is None else max(0.0, ages.by_clock(contents.changed_s))


def _step(contents: Contents, beat: Beat | None) -> int | None:
    """The step that training has come to, or goes on from while its ranks get ready."""
    if beat is not None and beat.doing != STARTING:
        return beat.step
    train, saved = contents.metrics.get("train"), contents.saved
    if beat is None and train is not None:
        return train.whole("step")
    return None if saved is None else saved.step


def _left_s(beat: Beat | None, state: State) -> float | None:
    if beat is None or state != "running" or not beat.steps_per_s or beat.total_steps is None:
        return None
    left = beat.total_steps - beat.step
    return left / beat.steps_per_s if left > 0 else None


def _attempts(contents: Contents, starts: Sequence[Start], text: str | None, end: Ending | None) -> Iterator[Attempt]:
    """The attempts; ``text`` and ``end`` say how the last start has ended."""
    of_attempt: list[StartOf] = []
    for start, following in pairwise(starts):
        found = _ending_of(contents, start, {})
        same = bool(start.launchers & following.launchers)
        cause = following.cause if same else None
        of_attempt.append(StartOf(start, cause or (found.text if found else _WORDLESS), found.fault if found else None))
        if not same:
            yield Attempt(tuple(of_attempt))
            of_attempt = []
    yield Attempt((*of_attempt, StartOf(starts[-1], text, None if end is None else end.fault)))


def duration_text(seconds: float | None) -> str:
    """``12 s``, ``3 min``, ``5 h``, ``2 days``."""
    if seconds is None:
        return "an unknown time"
    for size, unit in ((2 * 86400, "days"), (2 * 3600, "h"), (120, "min")):
        if seconds >= size:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.0f} {unit}"
    return f"{seconds:.0f} s"
