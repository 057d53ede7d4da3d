"""A run's status for a person, and as JSON for programs."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from dlrm.format import counted, escaped, local_time
from dlrm.run.status.endings import Fault
from dlrm.run.status.files import Beat, Entry
from dlrm.run.status.hangs import Heard
from dlrm.run.status.judge import OVER, Attempt, StartOf, Status, duration_text

_MOST_RANKS = 32
_ENDED = {
    "user": "failed",
    "bug": "failed",
    "peer": "has lost another rank",
    "timeout": "has waited for another rank in vain",
    "interrupt": "has stopped",
    "ended": "was ended by a signal",
}
_MOST_STARTS = 12


def as_lines(status: Status) -> list[str]:
    """The status in lines, the state first."""
    lines = [f"{status.run}: {headline(status)}"]
    lines += [f"  {title:<11} {text}" for title, text in _figures(status) if text]
    lines += ["", "attempts", *_attempts(status.attempts)] if status.attempts else []
    lines += (
        ["", "ranks", *_ranks(status.ranks)] if status.ranks and status.state not in ("finished", "stopped") else []
    )
    return [escaped(line, 500) for line in lines]


def headline(status: Status) -> str:
    """The state with its reason, in a line."""
    return status.text if status.text.startswith(status.state) else f"{status.state}: {status.text}"


def as_json(status: Status) -> dict[str, Any]:
    """The status as JSON; times are seconds since the epoch, ages and what is left seconds."""
    saved = status.saved
    return {
        "run": status.run,
        "state": status.state,
        "text": status.text,
        "step": status.step,
        "total_steps": status.total_steps,
        "samples_per_s": status.samples_per_s,
        "left_s": status.left_s,
        "loss": _number(status.train, "loss"),
        "auc": _number(status.validation, "auc"),
        "auc_step": _whole(status.validation, "step"),
        "test_auc": _number(status.test, "auc"),
        "checkpoints": None
        if saved is None
        else {"folder": saved.folder, "count": saved.count, "newest_step": saved.step, "age_s": status.saved_age_s},
        "attempts": [
            {"job": attempt.starts[0].start.job, "starts": [_start(one) for one in attempt.starts]}
            for attempt in status.attempts
        ],
        "ranks": [_rank(one) for one in status.ranks],
        "problems": [{"rank": one.rank, "text": one.text, "hangs": one.hangs} for one in status.problems],
        "first_error": _fault(status.fault),
        "heard_s": status.heard_s,
    }


def _start(one: StartOf) -> dict[str, Any]:
    start = one.start
    return {
        "time": start.time_s,
        "host": start.host,
        "ranks": start.ranks,
        "cause": start.cause,
        "ending": one.ending,
        "first_error": _fault(one.fault),
    }


def _fault(fault: Fault | None) -> dict[str, Any] | None:
    return None if fault is None else asdict(fault)


def _rank(one: Heard) -> dict[str, Any]:
    beat = one.beat
    return {
        "rank": beat.rank,
        "host": beat.host,
        "pid": beat.pid,
        "doing": beat.ended or beat.doing,
        "step": beat.step,
        "heard_s": one.age_s,
        "still_s": one.still_s,
        "process": one.process,
        "silent": one.is_silent,
        "where": list(beat.where),
    }


def _figures(status: Status) -> Iterator[tuple[str, str]]:
    yield "step", _step(status)
    yield "loss", _figure(status.train, "loss", ".4f")
    yield (
        "AUC",
        "; ".join(
            f"{split} {text}"
            for split, entry in (("validation", status.validation), ("test", status.test))
            if (text := _figure(entry, "auc", ".5f"))
        ),
    )
    yield "checkpoint", _saved(status)
    if status.state not in OVER:
        yield "heartbeats", _heartbeats(status)
    for problem in status.problems:
        if problem.text != status.text:
            yield "problem", problem.text
    if status.fault is not None:
        fault = status.fault
        yield "first error", f"rank {fault.rank}, host {fault.host}: {fault.line}"
        yield "read", f"{status.run}/{fault.log}{_of_host(fault.host)}"


def _step(status: Status) -> str:
    if status.step is None:
        return "" if status.total_steps is None else f"0 of {status.total_steps:,}"
    parts = [f"{status.step:,}"]
    if status.total_steps:
        parts = [f"{status.step:,} of {status.total_steps:,} ({status.step / status.total_steps:.0%})"]
    if status.samples_per_s is not None:
        parts.append(f"{status.samples_per_s:,.0f} samples/s")
    if status.left_s is not None:
        parts.append(f"about {_clock(status.left_s)} left")
    return ", ".join(parts)


def _figure(entry: Entry | None, name: str, spec: str) -> str:
    value, step = _number(entry, name), _whole(entry, "step")
    return "" if value is None or step is None else f"{value:{spec}} at step {step:,}"


def _saved(status: Status) -> str:
    saved = status.saved
    if saved is None or (saved.count == 0 and status.state == "starting"):
        return ""
    if saved.count is None:
        return f"in {saved.folder}, which is not looked into from here"
    if saved.step is None:
        return "none yet"
    age = "" if status.saved_age_s is None else f", {duration_text(status.saved_age_s)} ago"
    return f"step {saved.step:,}{age} ({counted(saved.count, 'committed checkpoint')} in {saved.folder})"


def _heartbeats(status: Status) -> str:
    if not status.ranks:
        return ""
    ages = [one.age_s for one in status.ranks]
    hosts = len({one.beat.host for one in status.ranks})
    return f"{counted(len(ages), 'rank')} on {counted(hosts, 'host')}, heard {min(ages):.0f} to {max(ages):.0f} s ago"


def _attempts(attempts: Sequence[Attempt]) -> Iterator[str]:
    lines = [line for number, attempt in enumerate(attempts, 1) for line in _attempt(number, attempt)]
    if len(lines) > _MOST_STARTS:
        yield f"  ... {counted(len(lines) - _MOST_STARTS, 'earlier start')}"
    yield from lines[-_MOST_STARTS:]


def _attempt(number: int, attempt: Attempt) -> Iterator[str]:
    for again, one in enumerate(attempt.starts):
        start = one.start
        where = f"{'?' if start.ranks is None else start.ranks} rank(s), rank 0 on {start.host}"
        job = f", job {start.job}" if start.job and not again else ""
        begin = f"  {number:>2}  {_time(start.time_s)}" if not again else f"      {_time(start.time_s)}"
        yield f"{begin}  {'again, ' if again else ''}{where}{job}{_ending(one)}"


def _ending(one: StartOf) -> str:
    return "" if one.ending is None else f": {one.ending}"


def _ranks(ranks: Sequence[Heard]) -> Iterator[str]:
    shown = list(ranks)
    if len(shown) > _MOST_RANKS:
        shown = sorted(shown, key=lambda one: -one.still_s)[:_MOST_RANKS]
        yield f"  the {_MOST_RANKS} of {len(ranks):,} that have not got on for longest"
    width = max(len(one.beat.host) for one in shown)
    yield f"  {'rank':>5}  {'host':<{width}}  {'pid':>8}  {'step':>10}  {'heard':>8}  {'got on':>8}  doing"
    for one in shown:
        beat = one.beat
        yield (
            f"  {beat.rank:>5}  {beat.host:<{width}}  {beat.pid:>8}  {beat.step:>10,}  {one.age_s:>6.0f} s  "
            f"{one.still_s:>6.0f} s  {_doing(beat)}{_note(one)}"
        )


def _doing(beat: Beat) -> str:
    return _ENDED.get(beat.ended, beat.ended) if beat.ended else beat.doing


def _note(one: Heard) -> str:
    if not one.beat.ended and one.process in ("gone", "stopped"):
        return f" (process {one.process})"
    return f" (in {one.beat.where[0]})" if one.beat.where else ""


def _of_host(host: str) -> str:
    return "" if host == socket.gethostname() else f" (of host {host}, if it does not share the folder)"


def _number(entry: Entry | None, name: str) -> float | None:
    return None if entry is None else entry.number(name)


def _whole(entry: Entry | None, name: str) -> int | None:
    return None if entry is None else entry.whole(name)


def _time(seconds: float) -> str:
    try:
        return local_time(seconds)
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
