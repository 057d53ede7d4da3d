"""Which files a run writes into its folder, by which it is known again, and how they are removed.

A folder is a *run* if a run has left proof of itself in it: its marker, the first file that it writes, or what only a run
writes. What is in it beside a run's own files is *foreign*, and belongs to somebody who may still want it: links, and all
that has a name which no run gives.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dlrm.checkpoint.names import is_of_checkpoints

MARKER = "run.json"
"""Says that the folder is a run's, whatever else became of it."""
STARTS = "processes.jsonl"
LOCK = ".lock"
_FORMAT = "dlrm-run"
# The last two are all that other hosts than rank 0's may have.
_FIRST = (LOCK, f"{MARKER}.part", STARTS, "config.yaml.part", "log", "heartbeat")
_FOLDERS = ("log", "heartbeat", "tensorboard", "checkpoints")
_WRITTEN = re.compile(
    r"\.lock|processes\.jsonl|curves\.png|report\.html|mlperf\.log|metrics\.part|mlflow\.json(\.unfinished)?|(validation|test)_scores\.parquet(\.unfinished)?|metrics\.jsonl\.damaged(-[0-9]+)?"
    r"|(run\.json|config\.yaml|environment\.json|summary\.json|plan\.txt|metrics\.jsonl)(\.part)?"
    r"|log/rank[0-9]+\.log|heartbeat/rank[0-9]+\.(json(\.part)?|ends\.jsonl)|tensorboard/events\.out\.tfevents\..+"
)
_STARTED = {"time", "host", "ranks", "launchers"}
_ENVIRONMENT = {"command", "packages", "ranks", "threads_per_rank"}


def marker_text() -> str:
    """What the marker holds."""
    return json.dumps({"format": _FORMAT, "version": 1}) + "\n"


def is_run(folder: Path) -> bool:
    """Whether a run has worked in a folder, or was killed before it had written anything."""
    if not folder.is_dir():
        return False
    return all(path.name in _FIRST for path in folder.iterdir()) or any(
        (
            _json(_text(folder / MARKER)).get("format") == _FORMAT,
            any(_json(line).keys() >= _STARTED for line in _text(folder / STARTS).splitlines()),
            _json(_text(folder / "environment.json")).keys() >= _ENVIRONMENT,  # as runs of earlier versions have it
            any(folder.glob("checkpoints/step_*/COMMITTED")),
        )
    )


def find_foreign(folder: Path) -> str | None:
    """What is first found in a run's folder that no run has written, as a path in it; None if there is nothing."""
    return next((name for name, own in _walk(folder) if not own), None)


def remove_run(folder: Path) -> None:
    """Remove what a run has written into its folder, but for its lock; the marker goes last, and nothing foreign goes.

    Raises:
        OSError: something cannot be removed, or lies in a folder that would have to go.
    """
    names = [name for name, own in _walk(folder) if own and name not in (LOCK, MARKER)]
    for name in reversed(names):  # what is in a folder before the folder
        path = folder / name
        if name in _FOLDERS or path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    (folder / MARKER).unlink(missing_ok=True)


def _walk(folder: Path, below: str = "") -> Iterator[tuple[str, bool]]:
    """All that is in a folder, a folder before what is in it, and whether a run has written it."""
    with os.scandir(folder / below) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = f"{below}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            own = name in _FOLDERS or _is_of_checkpoints(name, folder=True)
            yield name, own
            if own:
                yield from _walk(folder, f"{name}/")
        else:
            is_file = stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode)
            yield name, is_file and bool(_WRITTEN.fullmatch(name) or _is_of_checkpoints(name, folder=False))


def _is_of_checkpoints(name: str, *, folder: bool) -> bool:
    first, separator, rest = name.partition("/")
    return first == "checkpoints" and bool(separator) and is_of_checkpoints(rest, folder=folder)


def _text(path: Path) -> str:
    with suppress(FileNotFoundError, IsADirectoryError):
        return path.read_text(errors="replace")
    return ""


def _json(text: str) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        return found if isinstance(found, dict) else {}
    return {}
