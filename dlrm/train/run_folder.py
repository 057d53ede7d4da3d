"""The folder a run leaves behind: ``<run.dir>/<run.name>/``.

config.yaml, environment.json, plan.txt, metrics.jsonl, log/, tensorboard/, curves.png and, at the end, summary.json. Only
global rank 0 writes, but for the log, of which each rank has a file.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from dlrm.config import Config, dump_config
from dlrm.distributed.collectives import from_rank_0
from dlrm.distributed.world import World
from dlrm.errors import ConfigError

_PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "torchx", "iopath", "numpy", "dlrm")


def open_run_folder(config: Config, world: World) -> Path:
    """Make the folder on rank 0, write what is known at the start, and return its path on every rank.

    An earlier run of the same name is replaced if ``run.overwrite`` says so; otherwise ``-2``, ``-3``, ... is added.

    Raises:
        ConfigError: the folder cannot be made or written; the same on every rank.
    """

    def make() -> Path:
        try:
            folder = _fresh_folder(Path(config.run.dir), config.run.name, overwrite=config.run.overwrite)
            (folder / "config.yaml").write_text(dump_config(config))
            write_json(folder / "environment.json", environment(world))
        except OSError as error:
            raise ConfigError.at(
                "run.dir", f"{error.filename}: {error.strerror}; choose a folder to write to"
            ) from error
        return folder

    return from_rank_0(world.collectives, make)


def _fresh_folder(parent: Path, name: str, *, overwrite: bool) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    if overwrite and (parent / name / "config.yaml").exists():  # only what looks like a run is ever removed
        shutil.rmtree(parent / name)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def environment(world: World) -> dict[str, Any]:
    """Versions, hardware and code that a result depends on."""
    devices = []
    if world.device.type == "cuda":
        devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 1024**3, 1),
        "device": world.device.type,
        "devices": devices,
        "cuda": torch.version.cuda,
        "backend": world.backend,
        "ranks": world.size,
        "threads_per_rank": torch.get_num_threads(),
        "git": _git_state(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Commit and whether files differ from it; None outside of a checkout or without git."""
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
        changes = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode != 0:
        return None
    return {"commit": commit.stdout.strip(), "modified": bool(changes.stdout.strip())}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON beside the file and rename it, so that a reader never sees a half."""
    beside = path.with_suffix(path.suffix + ".part")
    beside.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    beside.replace(path)
