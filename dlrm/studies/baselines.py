"""Figures of other learners on the same samples, from the file that ``python -m benchmarks.baselines`` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrm.config import Config
from dlrm.config.describe import to_plain
from dlrm.errors import ConfigError
from dlrm.jobs.spec import json_mapping

FORMAT, VERSION = "dlrm-baselines", 1


@dataclass(frozen=True)
class Baseline:
    """A learner.

    Attributes:
        name: of it; about: how it was made, in a line.
        runs: by seed its figures, by (split, quantity).
        same_data: whether its file says that it was given the samples of the study.
    """

    name: str
    about: str
    runs: Mapping[int, Mapping[tuple[str, str], float]]
    same_data: bool


def read_baselines(path: str, config: Config) -> list[Baseline]:
    """All of a file.

    Args:
        path: of the file.
        config: of a training of the study, for its data.

    Raises:
        ConfigError: it is no such file, or the study's figures are made with weights of samples, which those are not.
    """
    if config.evaluation.weighted:
        message = "are figures without weights of samples, and evaluation.weighted is true: leave one of them out"
        raise ConfigError.at("baselines", message)
    found = json_mapping(Path(path))
    if (found.get("format"), found.get("version")) != (FORMAT, VERSION):
        raise ConfigError.at("baselines", f"{path} is no file of benchmarks.baselines, or of another version")
    same = _without_places(found.get("data")) == _without_places(to_plain(config.data))
    try:
        return [_baseline(name, learner, same) for name, learner in found["learners"].items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError.at("baselines", f"{path} is damaged ({error!r}): make it again") from None


def _baseline(name: str, learner: Mapping[str, Any], same: bool) -> Baseline:
    runs = {
        int(run["seed"]): {
            (split, quantity): float(value)
            for split in ("validation", "test")
            for quantity, value in run[split].items()
            if value is not None
        }
        for run in learner["runs"]
    }
    return Baseline(name, str(learner["about"]), runs, same)


def _without_places(data: Any) -> Any:
    """A data section without the folders that its files are in, which may differ from host to host."""
    if isinstance(data, Mapping):
        return {key: _without_places(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_places(value) for value in data]
    return Path(data).name if isinstance(data, str) and "/" in data else data
