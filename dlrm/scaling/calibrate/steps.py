"""Correcting a calibration by steps that benchmarks measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dlrm.config import Config, load_options
from dlrm.config.benchmark import BenchmarkConfig
from dlrm.data.build import build_dataset
from dlrm.data.source import Dataset
from dlrm.distributed.world import described_world
from dlrm.errors import ConfigError
from dlrm.scaling.benchmark.file_format import FORMAT
from dlrm.scaling.cost.calibration import CPU, Calibration
from dlrm.scaling.cost.describe import measured_ids, workload_of
from dlrm.scaling.cost.fit import median_error, refit, spread_of
from dlrm.scaling.cost.step import StepCost, step_cost
from dlrm.scaling.cost.workload import Workload
from dlrm.train.engine import plan_model

_SPREAD = 0.25


@dataclass(frozen=True)
class MeasuredStep:
    """A step that was measured.

    Attributes:
        name: of the measurement; workload: what its ranks did; step_s: how long it took, in the median.
    """

    name: str
    workload: Workload
    step_s: float


def described(config: Config, dataset: Dataset, ranks: int, ranks_per_host: int, device_name: str = "") -> Workload:
    """The work of a training step on so many ranks, none of which is started.

    Args:
        config: of the training.
        dataset: its samples, of which some are looked at to see how ids are spread.
        ranks: of the job.
        ranks_per_host: of each host.
        device_name: of the GPU of each; "" for CPUs.
    """
    world = described_world(ranks, ranks_per_host, device_name)
    return workload_of(config, dataset.schema, plan_model(config, dataset.schema, world), world, measured_ids(dataset))


def steps_in(folder: Path, hardware: str) -> list[MeasuredStep]:
    """Of all benchmarks under a folder, that of an experiment, say; of repeats of one the median.

    Args:
        folder: to look through.
        hardware: of each rank, as a calibration names it; what ran on another is left out.

    Raises:
        ConfigError: there are none, or some cannot be read.
    """
    found: dict[str, list[float]] = {}
    places: dict[str, tuple[BenchmarkConfig, int, int, str]] = {}
    for path in sorted(folder.rglob("benchmark.json")):
        try:
            told = json.loads(path.read_text())
            if told["format"] != FORMAT or told["without"]:
                continue
            device = str(told["environment"]["devices"][0]) if told["device"] == "cuda" else ""
            if (device or CPU) != hardware:
                continue
            config = load_options(BenchmarkConfig, str(path.with_name("benchmark.yaml")), [])
            ranks = int(told["ranks"])
            per_host = ranks // int(told["hosts"])
            step_s = told["step"]["median_ms"] / 1e3
            if not (math.isfinite(step_s) and step_s > 0 and ranks > 0 and ranks % per_host == 0):
                raise ValueError(f"{told['step']['median_ms']} ms a step of {ranks} ranks, {per_host} on a host")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ZeroDivisionError) as error:
            message = f"is no result of a benchmark ({type(error).__name__}: {error})"
            raise ConfigError.at("steps", message, str(path)) from None
        same = config.model_copy(update={"output": "", "run": config.run.model_copy(update={"dir": "", "name": ""})})
        name = f"{ranks} rank(s), {per_host} on a host, {hardware}: {same.model_dump_json()}"
        found.setdefault(name, []).append(step_s)
        places[name] = (config, ranks, per_host, device)
    if not found:
        raise ConfigError.at("steps", f"{folder} holds no results of benchmarks on {hardware}")
    return [
        MeasuredStep(
            name, described(config, build_dataset(config.data), ranks, per_host, device), float(np.median(times))
        )
        for (name, times), (config, ranks, per_host, device) in zip(found.items(), places.values(), strict=True)
    ]


def costs(calibration: Calibration, steps: Sequence[MeasuredStep], factors: Mapping[str, float]) -> list[StepCost]:
    """What the model says of each step, with these factors."""
    return [
        step_cost(
            step.workload,
            replace(calibration.machine(step.workload.ranks, step.workload.ranks_per_host), factors=factors),
        )
        for step in steps
    ]


def corrected(calibration: Calibration, steps: Sequence[MeasuredStep]) -> Calibration:
    """The calibration with the factors that fit these steps best, and the spread of each when it is left out of the fit."""
    held_out_s = [
        costs(calibration, [step], fitted_factors(calibration, [*steps[:index], *steps[index + 1 :]]))[0].step_s
        for index, step in enumerate(steps)
    ]
    least = _SPREAD / math.sqrt(1 + len(steps))  # a few steps that agree do not make all others certain
    spread = max(least, spread_of(held_out_s, [step.step_s for step in steps]))
    return replace(calibration, factors=fitted_factors(calibration, steps), spread=spread)


def fitted_factors(calibration: Calibration, steps: Sequence[MeasuredStep]) -> dict[str, float]:
    """The factors that fit these steps best; none without steps."""
    if not steps:
        return {}
    measured_s = [step.step_s for step in steps]
    return refit(lambda factors: [cost.terms_s for cost in costs(calibration, steps, factors)], measured_s, rounds=5)


def told(calibration: Calibration, steps: Sequence[MeasuredStep]) -> str:
    """How far the model is off, in a line."""
    predicted_s = [cost.step_s for cost in costs(calibration, steps, calibration.factors)]
    error = median_error(predicted_s, [step.step_s for step in steps])
    return f"corrected by {len(steps)} measured steps, of which it is {error:.1%} off in the median"
