"""What a rehearsal found: figures a step, and what should not happen in one. Needs no torch.

A *quiet* step is one after the warm-up in which nothing is recorded, evaluated or saved, and the pipeline is full. In such
a step the host should not wait for the device, copy from or to pageable memory, allocate pinned memory or touch another
rank's device. What cannot be helped is in known.toml, each with its reason and with how often it may happen in a step.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.rehearse_cuda.counting import Event, Step

KNOWN = Path(__file__).with_name("known.toml")
JUDGED = ("waits", "h2d_pageable", "d2h_pageable", "pinned_allocations", "other_device")
COPIES = ("h2d_pinned", "h2d_pageable", "d2h_pinned", "d2h_pageable", "d2d")
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce", "all_to_all", "exchange")
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Known:
    """What may happen in a quiet step.

    Attributes:
        function: ``file function`` of a frame of its stack, without the line.
        counters: of :data:`JUDGED`, that it adds to; at_most: times a step and counter, over all stacks with that frame.
        reason: why it cannot be helped.
    """

    function: str
    counters: tuple[str, ...]
    at_most: float
    reason: str


def read_known(path: Path = KNOWN) -> list[Known]:
    """The list of what is known.

    Raises:
        ValueError: an entry lacks something, has something else, or is about what is not judged.
    """
    entries = tomllib.loads(path.read_text()).get("known", [])
    found = []
    for entry in entries:
        if set(entry) != {"function", "counters", "at_most", "reason"} or not entry["reason"].strip():
            raise ValueError(f"{path.name}: an entry has function, counters, at_most and reason: {entry}")
        if strange := set(entry["counters"]) - set(JUDGED):
            raise ValueError(f"{path.name}: {', '.join(strange)} is none of {', '.join(JUDGED)}")
        found.append(Known(**{**entry, "counters": tuple(entry["counters"])}))
    return found


def rank_report(steps: Sequence[Step], warmup: int, memory_mib: Mapping[str, Any]) -> dict[str, Any]:
    """The means over the quiet steps of a rank, for JSON."""
    quiet = [step for step in steps if step.quiet and step.number > warmup]
    events: Counter[Event] = Counter()
    for step in quiet:
        events.update(step.events)
    share = 1 / max(1, len(quiet))
    names = quiet[0].counts if quiet else ()
    return {
        "steps": len(steps),
        "quiet_steps": len(quiet),
        "memory_mib": memory_mib,
        "per_step": {
            name: {
                "calls": sum(step.counts[name][0] for step in quiet) * share,
                "bytes": sum(step.counts[name][1] for step in quiet) * share,
            }
            for name in names
        },
        "events": [
            {
                "counter": event.counter,
                "what": event.what,
                "thread": event.thread,
                "stack": list(event.stack),
                "per_step": times * share,
            }
            for event, times in events.most_common()
        ],
    }


def violations(rank: Mapping[str, Any], known: Iterable[Known]) -> list[str]:
    """What happens in the quiet steps of a rank and is not known, or more often than that: a text each, with the stack."""
    if not rank["quiet_steps"]:
        return [f"no quiet step among {rank['steps']}: train more steps after the warm-up, and record less often"]
    left = [event for event in rank["events"] if event["counter"] in JUDGED]
    found = []
    for entry in known:
        matching = [event for event in left if is_of(event, entry)]
        for counter in entry.counters:
            times = sum(event["per_step"] for event in matching if event["counter"] == counter)
            if times > entry.at_most + _ROUNDING:
                text = f"{times:.2f} {counter} a step in {entry.function}, at most {entry.at_most:g} are known"
                found.append("\n".join([text, *(_told(event) for event in matching)]))
        left = [event for event in left if event not in matching]
    return found + [_told(event) for event in left]


def is_of(event: Mapping[str, Any], entry: Known) -> bool:
    return event["counter"] in entry.counters and any(function_of(frame) == entry.function for frame in event["stack"])


def function_of(frame: str) -> str:
    """``file:line function`` without the line."""
    place, _, name = frame.partition(" ")
    return f"{place.rpartition(':')[0]} {name}"


def _told(event: Mapping[str, Any]) -> str:
    head = f"{event['per_step']:.2f} {event['counter']} a step: {event['what']} (thread {event['thread']})"
    return "\n".join([head, *(f"    {frame}" for frame in event["stack"])])


def grouped_violations(ranks: Iterable[Mapping[str, Any]], known: Sequence[Known]) -> list[str]:
    """Those of all ranks, each once, with the ranks that have it."""
    of: dict[str, list[int]] = {}
    for rank in ranks:
        for text in violations(rank, known):
            of.setdefault(text, []).append(rank["rank"])
    return [f"(rank {', '.join(map(str, found))}) {text}" for text, found in of.items()]


def seen(ranks: Iterable[Mapping[str, Any]], known: Iterable[Known]) -> set[Known]:
    """Those of the known that happen."""
    events = [event for rank in ranks for event in rank["events"]]
    return {entry for entry in known if any(is_of(event, entry) for event in events)}


def rank_lines(rank: Mapping[str, Any]) -> list[str]:
    """A rank's report for people."""
    memory, counts = rank["memory_mib"], rank["per_step"]
    lines = [f"rank {rank['rank']}: {rank['quiet_steps']} quiet steps of {rank['steps']}; in each of them"]
    if counts:
        lines += [
            f"  launches     {_calls(counts, 'launches')} kernels and {_calls(counts, 'blas')} calls of cuBLAS",
            f"  copies       {_with_bytes(counts, COPIES)}",
            f"  collectives  {_with_bytes(counts, COLLECTIVES)}",
            f"  waits        {_calls(counts, 'waits')}",
            f"  allocations  {_calls(counts, 'device_allocations')} device, {_calls(counts, 'pinned_allocations')} pinned",
        ]
    peaks = ", ".join(f"{kind} {values['peak'] / 1024:.3g}" for kind, values in memory.items())
    lines.append(f"  peak GiB     {peaks}")
    if rank["not_computed"]:
        names = ", ".join(f"{name} ({times})" for name, times in rank["not_computed"].items())
        lines.append(f"  not computed {names}")
    return lines


def launch_lines(rank: Mapping[str, Any], most: int = 25) -> list[str]:
    """Where kernels are launched, if that was asked for: launches a step by the two innermost frames."""
    places: Counter[str] = Counter()
    for event in rank["events"]:
        if event["counter"] == "launches":
            places[" < ".join(event["stack"][:2]) or "(no Python)"] += event["per_step"]
    return [f"  {times:6.1f} launches {place}" for place, times in places.most_common(most)]


def counts_line(rank: Mapping[str, Any]) -> str:
    """The same in a line."""
    counts = rank["per_step"]
    if not counts:
        return f"no quiet step among {rank['steps']}"
    pageable = sum(counts[name]["calls"] for name in ("h2d_pageable", "d2h_pageable"))
    return (
        f"launches {_calls(counts, 'launches')} + {_calls(counts, 'blas')} cuBLAS, waits {_calls(counts, 'waits')}, "
        f"pageable copies {pageable:.4g}, {_with_bytes(counts, COLLECTIVES)}, "
        f"device peak {rank['memory_mib']['device']['peak'] / 1024:.3g} GiB"
    )


def _calls(counts: Mapping[str, Any], name: str) -> str:
    return f"{counts[name]['calls']:.4g}"


def _with_bytes(counts: Mapping[str, Any], names: Iterable[str]) -> str:
    shown = [
        f"{name} {counts[name]['calls']:.4g} ({counts[name]['bytes'] / 1e6:.3g} MB)"
        for name in names
        if counts[name]["calls"]
    ]
    return ", ".join(shown) or "none"
