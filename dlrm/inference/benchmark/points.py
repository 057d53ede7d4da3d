"""The points of a benchmark: combinations of factors."""

from __future__ import annotations

import itertools
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dlrm.config.bench_inference import BenchInferenceConfig
from dlrm.errors import ConfigError
from dlrm.format import counted
from dlrm.inference.benchmark.cpus import first_of_each_core
from dlrm.inference.benchmark.requests import Given

CpuSetName = Literal["all", "cores"]


@dataclass(frozen=True)
class Point:
    """A combination.

    Attributes:
        members: numbers of the exports that share the threads.
        batch_rows, threads, request_rows, given, cpu_set: as the configuration says.
    """

    members: tuple[int, ...]
    batch_rows: int
    threads: int
    request_rows: int = 1
    given: Given = "features"
    cpu_set: CpuSetName = "all"

    @property
    def models(self) -> int:
        """How many share the threads."""
        return len(self.members)

    @property
    def title(self) -> str:
        """In words."""
        parts = [f"batches of {counted(self.batch_rows, 'row')}", counted(self.threads, "thread")]
        if self.models > 1 or self.members != (0,):
            parts.append(
                counted(self.models, "model") if self.models > 1 else f"export {self.members[0] + 1} of several"
            )
        if self.request_rows > 1:
            parts.append(f"requests of {self.request_rows} rows")
        if self.given == "raw":
            parts.append("raw rows")
        if self.cpu_set == "cores":
            parts.append("one CPU a core")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "members": list(self.members), "models": self.models}


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        points: in order; cpu_sets: the CPUs of each set; notices: what is left out and why.
    """

    points: tuple[Point, ...]
    cpu_sets: dict[CpuSetName, frozenset[int]]
    notices: tuple[str, ...]


def plan(config: BenchInferenceConfig, *, allowed: frozenset[int] | None = None, root: Path | None = None) -> Plan:
    """The points of a configuration.

    Args:
        config: of the benchmark.
        allowed: CPUs of this process; asked of the system if None.
        root: of the system's files on CPUs.

    Raises:
        ConfigError: more CPUs or threads are asked for than there are.
    """
    sets, notices = _cpu_sets(config, frozenset(os.sched_getaffinity(0)) if allowed is None else allowed, root)
    most = len(sets["all"])
    threads = config.threads or tuple(sorted({1, most}))
    if max(threads) > most:
        message = f"{counted(max(threads), 'thread')} cannot have a CPU each: there are {counted(most, 'CPU')} for them"
        raise ConfigError.at("threads", message)
    points = []
    names = [name for name in sets if name in config.cpu_sets] or ["all"]
    for cpu_set, given, rows, count, batch, models in itertools.product(
        names, config.given, config.request_rows, threads, config.batch_rows, config.models
    ):
        if count > len(sets[cpu_set]):
            continue
        for members in _members(models, len(config.exports)):
            points.append(Point(members, batch, count, rows, given, cpu_set))
    return Plan(tuple(dict.fromkeys(points)), sets, notices)


def _members(models: int, exports: int) -> list[tuple[int, ...]]:
    """Each export alone, or the exports in turn."""
    if models == 1:
        return [(number,) for number in range(exports)]
    return [tuple(number % exports for number in range(models))]


def _cpu_sets(
    config: BenchInferenceConfig, allowed: frozenset[int], root: Path | None
) -> tuple[dict[CpuSetName, frozenset[int]], tuple[str, ...]]:
    if config.cpus > len(allowed):
        raise ConfigError.at("cpus", f"is {config.cpus}, and this process may use {counted(len(allowed), 'CPU')}")
    cores = first_of_each_core(allowed) if root is None else first_of_each_core(allowed, root)
    # Whole cores first, so that a few CPUs are not the threads of one core.
    order = [*sorted(cores), *sorted(allowed - cores)]
    used = frozenset(order[: config.cpus or len(order)])
    sets: dict[CpuSetName, frozenset[int]] = {"all": used}
    if "cores" not in config.cpu_sets:
        return sets, ()
    if used <= cores:
        return sets, (f"no hyper-threads: each of {counted(len(used), 'CPU')} is a core of its own",)
    return {**sets, "cores": used & cores}, ()
