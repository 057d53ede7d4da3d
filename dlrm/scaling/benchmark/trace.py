"""The profiler's trace with a track of our own: the stages, backward passes included. https://ui.perfetto.dev opens it."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

from dlrm.files import written_beside
from dlrm.scaling.benchmark.regions import STEP
from dlrm.scaling.benchmark.stages import Timeline, merged

_PROCESS = 1_000_000_000  # a track apart from those of real processes
TRACK = "dlrm stages"


def write_trace(profile: Any, found: Timeline, path: Path) -> None:
    """Write the trace of a profile, JSON compressed by gzip.

    Args:
        profile: a :class:`torch.profiler.profile` that is over.
        found: its stages.
        path: of the file, ``....json.gz``.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "trace.json")
        profile.export_chrome_trace(str(plain))
        trace = json.loads(plain.read_text())
    trace["traceEvents"] += _stages(trace["traceEvents"], found)
    with (
        written_beside(path, durable=False) as file,
        gzip.open(file, "wt", encoding="utf-8", compresslevel=6) as compressed,
    ):
        json.dump(trace, compressed)


def _stages(events: list[dict[str, Any]], found: Timeline) -> list[dict[str, Any]]:
    """The track's events, on the trace's clock, which begins at another moment than that of the events in Python."""
    first_us = min(event["ts"] for event in events if event.get("name") == STEP)
    shift_us = first_us - found.ends_us[0]
    head = {"ph": "M", "pid": _PROCESS, "tid": 0}
    track = [
        {**head, "name": "process_name", "args": {"name": TRACK}},
        {**head, "name": "process_sort_index", "args": {"sort_index": -1}},
    ]
    for segment in merged(found.segments):
        begin_us = segment.start_us + shift_us
        duration_us = segment.end_us - segment.start_us
        place = {"ph": "X", "cat": "stage", "pid": _PROCESS, "tid": 0}
        track.append({**place, "name": segment.stage, "ts": begin_us, "dur": duration_us})
    return track
