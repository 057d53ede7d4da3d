"""From the events of torch's profiler to the stages of a step.

The breakdown comes from the profiler and not from timers of our own. It sees the backward pass: every node of autograd has
an event with the sequence number of the forward operation that made it, so that a node's time belongs to the stage in which
that operation ran. Hooks on modules cannot see that: the backward pass of a bottom MLP, whose input needs no gradient,
begins and ends nowhere for them. It sees CUDA's kernels as well, by the operation that launched them. And it is the trace
that people look at, so that figures and picture agree.

Terms: a *stage* is a part of a step that has a name; the forward pass of a module is one, and so is its backward pass. At
every moment the stage is that of the innermost event that has one: a region of ours (:mod:`.regions`), a region of
torchrec, or a node of autograd. What has none is ``other``: Python between the parts, and waiting that nobody has named. So
the stages of a step sum up to the step.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlrm.scaling.benchmark.collectives import WAIT
from dlrm.scaling.benchmark.regions import OWN, STEP
from dlrm.scaling.stage_names import (
    ALL_REDUCE,
    COPY,
    DATA,
    INPUT_DIST,
    LOOKUP,
    OPTIMIZER,
    OTHER,
    OUTPUT_DIST,
    backward_of,
)

_ENGINE = "autograd::engine::evaluate_function: "
_GRADIENT_READY = f"{_ENGINE}torch::autograd::AccumulateGrad"  # DDP's hooks, and with them its all-reduce, run in it
_IN_BACKWARD = "## backward"
_EXCHANGING = "nccl"  # with what the names of kernels begin that do nothing but exchange, and wait for it
# What torchrec calls its regions; tests/unit/contracts/test_regions.py holds it to that.
TORCHREC = {
    "## next_batch": DATA,
    "## load batch": DATA,
    "## copy_batch_to_gpu": COPY,
    "## wait_for_batch": COPY,
    "## start_sparse_data_dist": INPUT_DIST,
    "## wait_sparse_data_dist": INPUT_DIST,
    "## runtime_forward_assemble_KJT": INPUT_DIST,
    "[splits_dist]": INPUT_DIST,
    "[tensors_dist]": INPUT_DIST,
    "[lookup]": LOOKUP,
    "[output_dist]": OUTPUT_DIST,
    "[output_dist_wait]": OUTPUT_DIST,
    "## zero_grad": OPTIMIZER,
    "## optimizer": OPTIMIZER,
}


Stretch = tuple[float, float]
"""Start and end, microseconds on the profiler's clock."""


@dataclass(frozen=True)
class Event:
    """A profiled piece of work of the host.

    Attributes:
        name: of a region, an operation or a node of autograd.
        start_us, end_us: microseconds on the profiler's clock.
        thread: which one did it.
        sequence: of the node of autograd that it makes or is; -1: none.
        device_us: time of the CUDA kernels that it launched itself.
    """

    name: str
    start_us: float
    end_us: float
    thread: int = 0
    sequence: int = -1
    device_us: float = 0.0


@dataclass(frozen=True)
class Segment:
    """A stretch of time of one stage."""

    stage: str
    start_us: float
    end_us: float


@dataclass
class Timeline:
    """The profiled steps of a rank.

    Attributes:
        segments: without gaps, from the end of the first profiled step on.
        ends_us: of the steps; step i lasts from ``ends_us[i]`` to ``ends_us[i + 1]``.
        launched: (moment, stage, microseconds of kernels) of each event that launched some.
        busy: (start, end) of each kernel, microseconds; empty without a CUDA device.
        working: of those that exchange nothing.
        waits: (start, end) of each stretch in which the host waits for other ranks.
    """

    segments: list[Segment] = field(default_factory=list)
    ends_us: list[float] = field(default_factory=list)
    launched: list[tuple[float, str, float]] = field(default_factory=list)
    busy: list[Stretch] = field(default_factory=list)
    working: list[Stretch] = field(default_factory=list)
    waits: list[Stretch] = field(default_factory=list)


@dataclass(frozen=True)
class Kernel:
    """Work of the device."""

    name: str
    start_us: float
    end_us: float


def events_of(profile: Any) -> tuple[list[Event], list[Kernel]]:
    """The host's events of a :class:`torch.profiler.profile`, and its kernels."""
    host: list[Event] = []
    kernels: list[Kernel] = []
    for found in profile.events():
        start_us, end_us = found.time_range.start, found.time_range.end
        if str(found.device_type).endswith(".CPU"):
            device_us = float(sum(kernel.duration for kernel in found.kernels))
            host.append(Event(found.name, start_us, end_us, found.thread, found.sequence_nr, device_us))
        elif not found.is_user_annotation:
            kernels.append(Kernel(found.name, start_us, end_us))
    return host, kernels


def timeline(events: Iterable[Event], kernels: Sequence[Kernel] = ()) -> Timeline:
    """Which stage each moment belongs to.

    Args:
        events: of all threads. Those that count are the one that steps and those that run autograd, while it waits.
        kernels: of the device.
    """
    events = list(events)
    threads = {event.thread for event in events if event.name == STEP or event.name.startswith(_ENGINE)}
    found = Timeline(
        busy=sorted((kernel.start_us, kernel.end_us) for kernel in kernels),
        working=sorted((k.start_us, k.end_us) for k in kernels if not k.name.startswith(_EXCHANGING)),
        waits=[(event.start_us, event.end_us) for event in events if event.name == WAIT and event.thread in threads],
    )
    sweep = _Sweep(found)
    for event in sorted((e for e in events if e.thread in threads), key=lambda e: (e.start_us, -e.end_us)):
        sweep.take(event)
    sweep.end()
    return found


@dataclass
class _Open:
    """An event that has begun: its stage, and whether a node of autograd is around it."""

    end_us: float
    stage: str
    in_node: bool


class _Sweep:
    """Goes through events in the order of their start and gives each moment to the innermost."""

    def __init__(self, found: Timeline) -> None:
        self._found = found
        self._open: list[_Open] = []
        self._now_us: float | None = None
        self._stage_of: dict[int, str] = {}  # by sequence number: in which stage a node of autograd was made
        self._after_nodes: list[int] = []  # segments of a backward pass, outside of all nodes, since its last node

    def take(self, event: Event) -> None:
        """An event begins."""
        self._close(event.start_us)
        self._until(event.start_us)
        if event.name == STEP:
            self._found.ends_us.append(event.start_us)
            return
        around = self._open[-1] if self._open else _Open(float("inf"), OTHER, in_node=False)
        is_node = event.name.startswith(_ENGINE)
        if is_node:
            self._after_nodes.clear()
        stage = self._stage(event, around.stage)
        if event.sequence >= 0 and not (is_node or around.in_node):
            self._stage_of[event.sequence] = stage  # the last operation with a number is the one that makes the node
        if event.device_us:
            self._found.launched.append((event.start_us, OTHER if stage == _IN_BACKWARD else stage, event.device_us))
        self._open.append(_Open(min(event.end_us, around.end_us), stage, is_node or around.in_node))

    def end(self) -> None:
        """No more events."""
        self._close(float("inf"))

    def _stage(self, event: Event, around: str) -> str:
        if event.name.startswith(OWN):
            return event.name.removeprefix(OWN)
        if event.name.startswith(_IN_BACKWARD):
            return _IN_BACKWARD
        if event.name.startswith(_GRADIENT_READY):
            return ALL_REDUCE
        if event.name.startswith(_ENGINE):
            made_in = self._stage_of.get(event.sequence)
            return around if made_in is None else OTHER if made_in == _IN_BACKWARD else backward_of(made_in)
        return next((stage for start, stage in TORCHREC.items() if event.name.startswith(start)), around)

    def _close(self, until_us: float) -> None:
        """End what has ended by then, the innermost first."""
        while self._open and self._open[-1].end_us <= until_us:
            self._until(self._open[-1].end_us)
            if self._open.pop().stage == _IN_BACKWARD and (not self._open or self._open[-1].stage != _IN_BACKWARD):
                # Behind the last node DDP waits for its all-reduces.
                for i in self._after_nodes:
                    segment = self._found.segments[i]
                    self._found.segments[i] = Segment(ALL_REDUCE, segment.start_us, segment.end_us)
                    self._found.waits.append((segment.start_us, segment.end_us))
                self._after_nodes.clear()

    def _until(self, us: float) -> None:
        """The time up to here is the innermost event's."""
        if self._now_us is not None and us > self._now_us:
            stage = self._open[-1].stage if self._open else OTHER
            if stage == _IN_BACKWARD:
                stage = OTHER
                self._after_nodes.append(len(self._found.segments))
            self._found.segments.append(Segment(stage, self._now_us, us))
        self._now_us = us if self._now_us is None else max(us, self._now_us)


def merged(segments: Iterable[Segment]) -> list[Segment]:
    """The same time, with neighbours of one stage as one segment."""
    found: list[Segment] = []
    for segment in segments:
        if found and found[-1].stage == segment.stage:
            segment = Segment(segment.stage, found.pop().start_us, segment.end_us)
        found.append(segment)
    return found


def by_step(found: Timeline) -> list[dict[str, float]]:
    """Of each profiled step the microseconds of each stage; they sum up to the step."""
    steps: list[dict[str, float]] = [{} for _ in found.ends_us[1:]]
    for segment in found.segments:
        for step, (start_us, end_us) in zip(steps, zip(found.ends_us, found.ends_us[1:], strict=False), strict=True):
            inside_us = min(segment.end_us, end_us) - max(segment.start_us, start_us)
            if inside_us > 0:
                step[segment.stage] = step.get(segment.stage, 0.0) + inside_us
    return steps


def launched_by_step(found: Timeline) -> list[dict[str, float]]:
    """Of each profiled step the microseconds of the kernels that each stage launched, wherever they ran."""
    steps: list[dict[str, float]] = [{} for _ in found.ends_us[1:]]
    for moment_us, stage, device_us in found.launched:
        step = sum(end_us <= moment_us for end_us in found.ends_us) - 1
        if 0 <= step < len(steps):
            steps[step][stage] = steps[step].get(stage, 0.0) + device_us
    return steps


def busy_by_step(found: Timeline) -> list[float]:
    """Of each profiled step the microseconds in which at least one kernel ran on the device."""
    return _covered_by_step(found.busy, found.ends_us)


def working_by_step(found: Timeline) -> list[float]:
    """Of each profiled step the microseconds in which this rank worked and did not wait for others.

    On a device: in which a kernel ran that exchanges nothing. On CPU: in which the host did not wait.
    """
    if found.busy:
        return _covered_by_step(found.working, found.ends_us)
    waited_us = _covered_by_step(sorted(found.waits), found.ends_us)
    lengths_us = (end - start for start, end in itertools.pairwise(found.ends_us))
    return [length - waited for length, waited in zip(lengths_us, waited_us, strict=True)]


def _covered_by_step(sorted_stretches: Iterable[Stretch], ends_us: Sequence[float]) -> list[float]:
    stretches: list[list[float]] = []
    for start_us, end_us in sorted_stretches:
        if stretches and start_us <= stretches[-1][1]:
            stretches[-1][1] = max(stretches[-1][1], end_us)
        else:
            stretches.append([start_us, end_us])
    steps = itertools.pairwise(ends_us)
    return [sum(max(0.0, min(end, b) - max(start, a)) for a, b in stretches) for start, end in steps]
