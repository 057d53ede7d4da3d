"""Folders of runs as status finds them, made by hand, with clocks that stand."""

import json
import os

from dlrm.run.status.ages import Ages
from dlrm.run.status.files import read
from dlrm.run.status.job import look
from dlrm.run.status.judge import judge

NOW = 1_800_000_000.0
START = NOW - 1000.0


class Clocks:
    """The clock of this host, which may be wrong, and one that counts seconds; sleeping lets both go on."""

    def __init__(self, ahead_s=0.0):
        self.at, self.ahead_s = 0.0, ahead_s
        self.meanwhile = lambda: None

    def sleep(self, seconds):
        self.at += seconds
        self.meanwhile()

    def ages(self):
        return Ages(wall=lambda: NOW + self.at + self.ahead_s, steady=lambda: self.at)


def start(folder, time_s=START, **values):
    """A line for a start of two ranks."""
    entry = {"time": time_s, "host": "a", "pid": 1, "ranks": 2, "launchers": ["boot pid:[1] 7 9"], **values}
    _append(folder / "processes.jsonl", json.dumps(entry), time_s)
    (folder / "run.json").write_text(json.dumps({"format": "dlrm-run", "version": 1}))


def beat(folder, rank, *, age_s=1.0, start_s=START, **values):
    """A rank's last beat, so long ago."""
    entry = {"start": start_s, "rank": rank, "ranks": 2, "host": "ab"[rank % 2], "pid": 100 + rank, "number": 7}
    entry |= {"every_s": 5.0, "doing": "training", "step": 40, "total_steps": 100, "still_s": 0.1, "where": []}
    entry |= {"process": None, "restarts_left": None, "steps_per_s": 2.0, "ended": None}
    path = folder / "heartbeat" / f"rank{rank}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(entry | values))
    os.utime(path, (NOW - age_s, NOW - age_s))


def end(folder, rank, kind, line, *, start_s=START, time_s=NOW - 5, **values):
    """A line for a rank that says how it ends."""
    entry = {"start": start_s, "rank": rank, "host": "ab"[rank % 2], "pid": 100 + rank, "time": time_s}
    (folder / "heartbeat").mkdir(exist_ok=True)
    _append(folder / f"heartbeat/rank{rank}.ends.jsonl", json.dumps({**entry, "kind": kind, "line": line, **values}))


def metrics(folder, *entries):
    """Lines of metrics.jsonl."""
    for entry in entries:
        _append(folder / "metrics.jsonl", json.dumps(entry))


def status(folder, clocks=None):
    """The status of a folder."""
    clocks = clocks or Clocks()
    return look(folder, clocks.ages(), clocks.sleep)


def first_glance(folder):
    """The status without a second look."""
    contents, ages = read(folder), Clocks().ages()
    ages.look(contents.beats.values())
    return judge(contents, ages)


def _append(path, line, time_s=NOW - 10):
    with path.open("a") as file:
        file.write(line + "\n")
    os.utime(path, (time_s, time_s))
