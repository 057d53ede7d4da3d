"""What the report says of an experiment as a whole, beside its figures."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from dlrm.format import counted, local_time

ENVIRONMENT = "environment.json"
DESCRIPTION = "experiment.yaml"
"""File beside a table that may say what the experiment is for, as ``description``."""
_OF_POINTS = "points/*/*/benchmark.json"  # as scale leaves them beside its table
_MOST_LOOKED_AT = 20


@dataclass(frozen=True)
class About:
    """An experiment in words.

    Attributes:
        description: what it is for.
        environment: versions, hardware and code, as of :func:`dlrm.run.environment.environment`.
        date: when it ended, as people read it.
    """

    description: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""


def about_now(description: str = "") -> About:
    """Of an experiment that has just ended."""
    return About(description, date=local_time(time.time()))


def about_file(path: Path) -> About:
    """Of a table, from what lies beside it; what cannot be read or is something else is left out."""
    environment = _mapping(path.with_name(ENVIRONMENT)) or _of_points(path.parent)
    description = _mapping(path.with_name(DESCRIPTION)).get("description")
    return About(description if isinstance(description, str) else "", environment, local_time(path.stat().st_mtime))


def hardware(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """An environment in a few lines: (what, text)."""
    found = []
    devices = environment.get("devices")
    if isinstance(devices, list) and devices:
        kinds = {str(device): devices.count(device) for device in devices}
        found.append(("Devices", ", ".join(f"{count} x {kind}" for kind, count in kinds.items())))
    host = [str(environment[name]) for name in ("host", "system") if environment.get(name)]
    if isinstance(environment.get("cpu_cores"), int):
        host.append(counted(environment["cpu_cores"], "core"))
    if isinstance(environment.get("memory_gib"), int | float):
        host.append(f"{environment['memory_gib']:,.1f} GiB of memory")
    if host:
        found.append(("Host", ", ".join(host)))
    packages = environment.get("packages")
    if isinstance(packages, dict) and packages:
        found.append(("Packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
    git = environment.get("git")
    if isinstance(git, dict) and git.get("commit"):
        found.append(("Commit", f"{git['commit']}{', with changes' if git.get('modified') else ''}"))
    return found


def _mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _of_points(folder: Path) -> dict[str, Any]:
    """The environment of the first point that has left one."""
    found = (_mapping(path).get("environment") for path in islice(folder.glob(_OF_POINTS), _MOST_LOOKED_AT))
    return next((environment for environment in found if isinstance(environment, dict)), {})
