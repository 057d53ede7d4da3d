"""The tables of docs/rehearsal.md, from the reports of cases: ``python -m scripts.rehearse_cuda.tables all.json ...``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.rehearse_cuda.matrix import CONFIGS, LOSSES
from scripts.rehearse_cuda.mixtures import OPTIMIZERS
from scripts.rehearse_cuda.report import COLLECTIVES, COPIES, Known, is_of, read_known

_HEADS = ("", "launches + cuBLAS", "waits", "copies", "collectives", "device peak, GiB")
_TINY_MB = 0.002
_FRAMES = 7  # of a stack; further out there is the training loop

Rank = Mapping[str, Any]
Case = Mapping[str, Any]


def tables(cases: Sequence[Case]) -> Iterator[str]:
    """The lines: configurations, their mixtures (a row for the optimizers that ran), small models, and where waits are."""
    counted = {
        case["case"]: case["ranks"][0] for case in cases if not case["case"].startswith(LOSSES) and case["ranks"]
    }
    mixtures: dict[str, dict[str, Rank]] = {}
    configurations, small = {}, {}
    for name, rank in counted.items():
        of_all, _, optimizer = name.rpartition(", ")
        if optimizer in OPTIMIZERS:
            mixtures.setdefault(of_all, {})[optimizer] = rank
        else:
            (configurations if name.partition(",")[0] in CONFIGS else small)[name] = [rank]
    mixed = {f"{name}: {', '.join(ranks)}": list(ranks.values()) for name, ranks in mixtures.items()}
    for rows in (configurations, mixed, small):
        yield from ("", _line(_HEADS), _line(["---"] * len(_HEADS)))
        yield from (_line([name, *_cells(ranks)]) for name, ranks in rows.items())
    yield from _places(cases, read_known())


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(ranks: Sequence[Rank]) -> Iterator[str]:
    yield f"{_calls(ranks, 'launches')} + {_calls(ranks, 'blas')}"
    yield _calls(ranks, "waits")
    for names in (COPIES, COLLECTIVES):
        called = (name for name in names if any(rank["per_step"][name]["calls"] for rank in ranks))
        yield ", ".join(f"{name} {_calls(ranks, name)}{_megabytes(ranks, name)}" for name in called)
    yield _span(rank["memory_mib"]["device"]["peak"] / 1024 for rank in ranks)


def _calls(ranks: Sequence[Rank], counter: str) -> str:
    return _span(rank["per_step"][counter]["calls"] for rank in ranks)


def _megabytes(ranks: Sequence[Rank], counter: str) -> str:
    """Nothing for what tells sizes."""
    megabytes = [rank["per_step"][counter]["bytes"] / 1e6 for rank in ranks]
    return f" ({_span(megabytes)} MB)" if max(megabytes) > _TINY_MB else ""


def _span(values: Iterable[float]) -> str:
    shown = sorted(values)
    least, most = (_figure(value) for value in (shown[0], shown[-1]))
    return least if least == most else f"{least} to {most}"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _places(cases: Sequence[Case], known: Sequence[Known]) -> Iterator[str]:
    """Of each place of known.toml: how often the host waits there, in how many cases, and the stacks."""
    for entry in known:
        of_cases, stacks = [], {}
        for case in cases:
            waits = [
                e for rank in case["ranks"][:1] for e in rank["events"] if e["counter"] == "waits" and is_of(e, entry)
            ]
            of_cases += [sum(event["per_step"] for event in waits)] if waits else []
            stacks |= {tuple(event["stack"][:_FRAMES]): event for event in waits}
        yield f"\n{entry.function}: {_span(of_cases or [0])} waits a step in {len(of_cases)} cases; {entry.reason}"
        for stack, event in stacks.items():
            yield f"  {event['what']} (thread {event['thread']})"
            yield from (f"    {frame}" for frame in stack)


def main(files: Sequence[str]) -> None:
    """Print the tables of these reports."""
    print("\n".join(tables([case for file in files for case in json.loads(Path(file).read_text())])))


if __name__ == "__main__":
    main(sys.argv[1:])
