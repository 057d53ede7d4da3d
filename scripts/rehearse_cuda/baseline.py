"""What each case of the matrix came to when it was last written down: counts.json, so that what grows is seen.

known.toml says where the host may wait; here is how often it does, case by case. ``--write-counts`` writes the counts anew,
after a change that lowers them or that is worth it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COUNTS = Path(__file__).with_name("counts.json")
_JUDGED = ("waits", "pageable")  # launches are written down, too, but a few more of them are nobody's fault
_ROUNDING = 0.01


def counts_of(ranks: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Calls a step, of the rank that has most."""

    def most(*names: str) -> float:
        return round(max(sum(rank["per_step"][name]["calls"] for name in names) for rank in ranks), 2)

    return {
        "launches": most("launches", "blas"),
        "waits": most("waits"),
        "pageable": most("h2d_pageable", "d2h_pageable"),
    }


def read_counts(path: Path = COUNTS) -> dict[str, Any]:
    """The versions that were counted with, and the counts by case."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def grown(case: str, ranks: Sequence[Mapping[str, Any]], written: Mapping[str, Any]) -> list[str]:
    """What is more than was written down for a case; nothing where other versions were counted."""
    if not _are_counted(ranks) or written["versions"] != ranks[0]["versions"] or case not in written["cases"]:
        return []
    before, now = written["cases"][case], counts_of(ranks)
    return [
        f"{now[name]:g} {name} a step, {before[name]:g} are written down in {COUNTS.name}"
        for name in _JUDGED
        if now[name] > before[name] + _ROUNDING
    ]


def write_counts(by_case: Mapping[str, Sequence[Mapping[str, Any]]], path: Path = COUNTS) -> None:
    """Write the counts of these cases; those of others stay if they are of the same versions."""
    counted = {case: ranks for case, ranks in by_case.items() if _are_counted(ranks)}
    if not counted:
        return
    versions = next(iter(counted.values()))[0]["versions"]
    before = read_counts(path) if path.exists() else {"versions": versions, "cases": {}}
    kept = before["cases"] if before["versions"] == versions else {}
    cases = {**kept, **{case: counts_of(ranks) for case, ranks in counted.items()}}
    lines = ",\n".join(f"  {json.dumps(case)}: {json.dumps(cases[case])}" for case in sorted(cases))
    path.write_text(f'{{"versions": {json.dumps(versions)}, "cases": {{\n{lines}\n}}}}\n')


def _are_counted(ranks: Sequence[Mapping[str, Any]]) -> bool:
    return bool(ranks) and all(rank["quiet_steps"] for rank in ranks)
