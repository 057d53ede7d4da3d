"""Which collectives this rank has called last, from torch's flight recorder, and from where in this package.

Ranks that wait for each other in different collectives wait until ``distributed.timeout_s``. Each of them knows only its
own; whoever has those of all (launch/elastic.py) can say which did not fit together. The recorder is on unless
``TORCH_FR_BUFFER_SIZE`` is 0; asking it calls no collective.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

_PACKAGE = Path(__file__).resolve().parents[1]
_MOST = 8  # collectives of each group that are told: ranks that wait for each other are seldom further apart


class Called(NamedTuple):
    """A collective: the ``number``-th of a process group."""

    group: str
    number: int
    name: str


def last_called() -> list[Called]:
    """The newest collectives of each process group, oldest first; none where torch is not there or records none."""
    c10d = sys.modules.get("torch._C._distributed_c10d")  # nothing was called if it is not there, and it takes seconds
    dump = getattr(c10d, "_dump_fr_trace_json", None)
    if dump is None:
        return []
    entries = json.loads(dump(includeCollectives=True)).get("entries") or []
    called = [
        Called(entry["process_group"][0], entry["collective_seq_id"], entry["profiling_name"].rpartition(":")[2])
        for entry in sorted(entries, key=lambda entry: int(entry["record_id"]))
        if not entry["is_p2p"]
    ]
    newest = {
        group: [each for each in called if each.group == group][-_MOST:] for group in {each.group for each in called}
    }
    return [each for each in called if each in newest[each.group]]


def caller(error: BaseException) -> str:
    """Where an error came from: the innermost line of this package (of any program, if there is none of it)."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    others = [frame for frame in frames if "site-packages" not in Path(frame.filename).parts]
    for frame in reversed(own or others):
        path = Path(frame.filename)
        name = path.relative_to(_PACKAGE.parent) if own else path.name
        return f"{name}:{frame.lineno} ({frame.name})"
    return ""
