"""All that a benchmark has found, and its files."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dlrm.config.bench_inference import BenchInferenceConfig
from dlrm.files import written_beside
from dlrm.hardware.host import processor
from dlrm.inference.benchmark.colocation import Shared, shared
from dlrm.inference.benchmark.comparison import Comparison
from dlrm.inference.benchmark.measure import Measured
from dlrm.inference.benchmark.observed import Observed
from dlrm.run.environment import package_versions
from dlrm.run.secondary import write_json

FORMAT, VERSION = "dlrm-inference-benchmark", 1
JSON, CSV, PARQUET, PICTURE = "results.json", "points.csv", "points.parquet", "picture.png"
FILES = (JSON, CSV, PARQUET, PICTURE)


@dataclass
class Result:
    """What was found so far.

    Attributes:
        config: of the benchmark; measured: the points, in order; comparison: with the plain way.
        notices: what a reader has to know; complete: whether all was measured.
    """

    config: BenchInferenceConfig
    measured: list[Measured] = field(default_factory=list)
    comparison: Comparison | None = None
    notices: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def shared(self) -> list[Shared]:
        """What models that share threads cost each other."""
        return shared(self.measured)

    @property
    def best(self) -> Measured | None:
        """The point that answers most rows a second within the bound; None where none keeps it."""
        keeping = [one for one in self.measured if one.bounded]
        return max(keeping, key=lambda one: one.bounded_rate * one.point.request_rows, default=None)

    @property
    def best_alone(self) -> Measured | None:
        """The same of the first export alone with the smallest requests, which the plain way is compared with."""
        least = min((one.point.request_rows for one in self.measured), default=0)
        keeping = [
            one
            for one in self.measured
            if one.bounded and one.point.members == (0,) and one.point.request_rows == least
        ]
        features = [one for one in keeping if one.point.given == "features"]
        return max(features or keeping, key=lambda one: one.bounded_rate, default=None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; no path is in it."""
        best = self.best
        options = self.config.model_dump(mode="json", exclude={"exports", "output", "data"})
        return {
            "format": FORMAT,
            "version": VERSION,
            "complete": self.complete,
            "bound_ms": self.config.bound_ms,
            "exports": [Path(path).name for path in self.config.exports],
            "options": options,
            "best": {**best.point.to_dict(), "rate_per_s": best.bounded_rate} if best else None,
            "points": [one.to_dict() for one in self.measured],
            "shared": [one.to_dict() for one in self.shared],
            "comparison": self.comparison.to_dict() if self.comparison else None,
            "notices": self.notices,
            "environment": environment(),
        }


def environment() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "python": platform.python_version(),
        "packages": package_versions(),
        "system": platform.platform(),
        "processor": processor("model name") or platform.processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
    }


def write_files(result: Result, folder: Path) -> None:
    """Replace results.json and the tables, each as a whole.

    Raises:
        OSError: they cannot be written.
    """
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    write_json(folder / JSON, result.to_dict())
    rows = list(table_rows(result.measured))
    if not rows:
        return
    table = pyarrow.Table.from_pylist(rows)
    with written_beside(folder / PARQUET, durable=False) as file:
        pyarrow.parquet.write_table(table, file)
    with written_beside(folder / CSV, durable=False) as file:
        pyarrow.csv.write_csv(table, file)


def table_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """A row a run: the factors of its point, what kind of run it was, and what was seen."""
    return [
        _row(one, name, run)
        for one in measured
        for name, run in (
            ("alone", one.alone),
            ("closed", one.closed),
            *(("curve", run) for run in one.curve),
            ("bounded", one.bounded),
        )
        if run is not None
    ]


def _row(one: Measured, name: str, run: Observed) -> dict[str, Any]:
    point = one.point.to_dict()
    point["members"] = " ".join(str(member) for member in one.point.members)
    seen = run.to_dict()
    latency = seen.pop("latency")
    del seen["models"]
    return {**point, "run": name, **seen, **latency, "meets": run.meets}
