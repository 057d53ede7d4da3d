"""What a benchmark found: the contents of benchmark.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dlrm.memory import MemoryAccount
from dlrm.metrics.memory import PeakMemory
from dlrm.scaling.benchmark.ceilings import Ceilings
from dlrm.scaling.benchmark.file_format import FORMAT, VERSION
from dlrm.scaling.benchmark.floors import Floors
from dlrm.scaling.work import Work
from dlrm.train.memory import of_most

_GIB = 1 << 30
_LEFT_OUT = 0.25
"""Share of the profiled steps that do not count at either end, by length: on a busy machine single steps take many times
as long as the others."""


@dataclass(frozen=True)
class StepTime:
    """How long a step takes, milliseconds; of the slowest rank."""

    median_ms: float
    p5_ms: float
    p95_ms: float
    mean_ms: float


@dataclass(frozen=True)
class Stage:
    """A stage of the step, milliseconds a step.

    Attributes:
        stage: its name.
        mean_ms: of the host's time, over the ranks.
        slowest_ms: of the rank that takes longest for it; slowest_rank: which.
        by_rank_ms: of each rank.
        device_ms: of the kernels that it launched, of the rank with most of them; None without a CUDA device.
    """

    stage: str
    mean_ms: float
    slowest_ms: float
    slowest_rank: int
    by_rank_ms: tuple[float, ...]
    device_ms: float | None = None


@dataclass(frozen=True)
class Breakdown:
    """Where the time of a step goes.

    Attributes:
        step_ms: mean of the steps that count: the sum of the stages' ``mean_ms``.
        steps: how many count.
        overhead: by how much the profiler makes the median step longer, as a share of it.
        stages: in the order of a step.
        busy_ms: of each rank, in which it works and does not wait for others: the host, or a device if there is one.
        device_busy_ms: in which at least one kernel runs, of the rank with the least; None without a CUDA device.
    """

    step_ms: float
    steps: int
    overhead: float
    stages: tuple[Stage, ...]
    busy_ms: tuple[float, ...]
    device_busy_ms: float | None = None


@dataclass(frozen=True)
class Memory:
    """Peak memory of the rank that takes most of it, GiB.

    Attributes:
        host_gib: resident, since the process started; expected_host_gib: predicted before the first step.
        device_gib: of tensors on the device; reserved_gib: what torch's allocator took for them; None without a device.
        expected_device_gib: predicted of the tensors.
        expected_bytes: the prediction part by part, of the rank for which it is highest.
        host_bytes_by_rank, device_bytes_by_rank: what is measured, of each; the latter None without a device.
    """

    host_gib: float
    expected_host_gib: float
    device_gib: float | None
    reserved_gib: float | None
    expected_device_gib: float | None
    expected_bytes: dict[str, Any]
    host_bytes_by_rank: tuple[int, ...]
    device_bytes_by_rank: tuple[int, ...] | None

    @classmethod
    def of(cls, expected: Sequence[MemoryAccount], measured: Sequence[PeakMemory]) -> Memory:
        """Join what ranks have expected and measured."""
        most = of_most(expected)
        on_device = measured[0].device_allocated_gib is not None
        return cls(
            host_gib=max(peak.resident_gib for peak in measured),
            expected_host_gib=max(account.total.host for account in expected) / _GIB,
            device_gib=max(peak.device_allocated_gib or 0.0 for peak in measured) if on_device else None,
            reserved_gib=max(peak.device_reserved_gib or 0.0 for peak in measured) if on_device else None,
            expected_device_gib=most.total.device / _GIB if on_device else None,
            expected_bytes=most.to_dict(),
            host_bytes_by_rank=tuple(round(peak.resident_gib * _GIB) for peak in measured),
            device_bytes_by_rank=tuple(round((peak.device_allocated_gib or 0.0) * _GIB) for peak in measured)
            if on_device
            else None,
        )


def step_time(step_s: Sequence[float]) -> StepTime:
    """The distribution of step times in seconds."""
    p5, median, p95 = (float(value) * 1e3 for value in np.percentile(step_s, [5, 50, 95]))
    return StepTime(median, p5, p95, float(np.mean(step_s)) * 1e3)


def slowest(step_s_by_rank: Sequence[Sequence[float]]) -> Sequence[float]:
    """The steps of the rank that took longest for all of them."""
    return max(step_s_by_rank, key=sum)


@dataclass(frozen=True)
class ProfiledRank:
    """The profiled steps of one rank.

    Attributes:
        step_s: seconds of each step.
        stages_us: of each step, by stage; they sum up to the step.
        device_us: kernels of each step, by the stage that launched them; busy_us: in which one ran. Empty without a device.
        working_us: of each step, in which the rank did not wait for others.
    """

    step_s: list[float]
    stages_us: list[dict[str, float]]
    device_us: list[dict[str, float]]
    busy_us: list[float]
    working_us: list[float]


def sent_by_rank(ranks: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    """What each rank has sent, by collective; those by which none has sent anything are left out."""
    found = {collective: tuple(sent[collective] for sent in ranks) for collective in ranks[0]}
    return {collective: sent for collective, sent in found.items() if any(sent)}


def breakdown(ranks: Sequence[ProfiledRank], order: Sequence[str], plain_median_s: float) -> Breakdown:
    """Join what the ranks have profiled.

    The same steps count on every rank: the middle half by their length, so that a disturbance does not pass for a stage.

    Args:
        ranks: of each.
        order: every stage, in the order of a step.
        plain_median_s: of a step without the profiler.
    """
    lengths_us = np.array([[sum(step.values()) for step in rank.stages_us] for rank in ranks]).mean(axis=0)
    leave = int(len(lengths_us) * _LEFT_OUT)
    counted = np.argsort(lengths_us, kind="stable")[leave : len(lengths_us) - leave]
    on_device = bool(ranks[0].busy_us) and any(map(any, (rank.busy_us for rank in ranks)))
    stages = []
    for name in order:
        by_rank = [_mean_ms(rank.stages_us, name, counted) for rank in ranks]
        device = max(_mean_ms(rank.device_us, name, counted) for rank in ranks) if on_device else None
        longest = int(np.argmax(by_rank))
        stages.append(Stage(name, float(np.mean(by_rank)), by_rank[longest], longest, tuple(by_rank), device))
    busy = min(float(np.mean([rank.busy_us[i] for i in counted])) / 1e3 for rank in ranks) if on_device else None
    median_s = float(np.median(slowest([rank.step_s for rank in ranks])))
    return Breakdown(
        step_ms=float(lengths_us[counted].mean()) / 1e3,
        steps=len(counted),
        overhead=median_s / plain_median_s - 1,
        stages=tuple(stages),
        busy_ms=tuple(float(np.mean([rank.working_us[i] for i in counted])) / 1e3 for rank in ranks),
        device_busy_ms=busy,
    )


def _mean_ms(steps_us: Sequence[dict[str, float]], stage: str, counted: Sequence[int] | np.ndarray[Any, Any]) -> float:
    return float(np.mean([steps_us[i].get(stage, 0.0) for i in counted])) / 1e3


@dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        name: of the configuration; hosts, ranks, device, backend, threads_per_rank: where it ran.
        global_batch_size: samples of a step, over all ranks.
        without: what was left out.
        steps: that were timed; samples_per_s: over all ranks; step: their time.
        memory: at its peak until then; None where something was left out.
        bytes_sent: to other ranks in a step, by collective: of each rank (:mod:`dlrm.scaling.benchmark.collectives`).
        breakdown: where it goes.
        work: of a sample, by formula; ceilings: of each rank; floors: of the step. None where they are not known.
        notices: what could not be measured or written, a line each.
        environment: versions, hardware and code.
    """

    name: str
    hosts: int
    ranks: int
    device: str
    backend: str
    threads_per_rank: int
    global_batch_size: int
    without: tuple[str, ...]
    steps: int
    samples_per_s: float
    step: StepTime
    memory: Memory | None
    bytes_sent: dict[str, tuple[float, ...]]
    breakdown: Breakdown
    work: Work | None
    ceilings: tuple[Ceilings, ...] | None
    floors: Floors | None
    notices: tuple[str, ...]
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}
