"""The folder a run leaves behind: ``<run.dir>/<run.name>/``.

config.yaml, environment.json, processes.jsonl, plan.txt, metrics.jsonl, log/, tensorboard/, checkpoints/, curves.png and,
at the end, summary.json. Only global rank 0 writes, but for the log and its part of checkpoints.

A run may be the work of several jobs, one after the other (``--resume auto``), and of several starts of all ranks within a
job, where a launcher starts them again after one has died. processes.jsonl has a line for each start, by which the ranks of
a job know its folder again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import psutil
import torch

from dlrm.checkpoint.folder import checkpoint_paths
from dlrm.checkpoint.owner import process_mark
from dlrm.checkpoint.patience import Patience
from dlrm.checkpoint.storage import Storage
from dlrm.config import Config, dump_config
from dlrm.config.checkpoint import NEWEST, NO_CHECKPOINT
from dlrm.distributed.collectives import from_rank_0
from dlrm.distributed.world import World
from dlrm.errors import ConfigError
from dlrm.remote.paths import is_remote, local_path

_PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "torchx", "iopath", "numpy", "dlrm")
_STARTS = "processes.jsonl"
_FIRST = (".lock", _STARTS, "config.yaml.part", "log")  # the last is all that other hosts than rank 0's may have
_LOCK_PATIENCE_S = 10.0
_locks: list[IO[str]] = []  # held, open, until the process ends


@dataclass
class RunFolder:
    """A run's folder, seen from one rank.

    Attributes:
        path: of the folder.
        continued: whether earlier processes have worked on the run, whose checkpoints are to be looked for.
        restarted: whether these were of the same job.
    """

    path: Path
    continued: bool = False
    restarted: bool = False


def open_run_folder(config: Config, world: World) -> RunFolder:
    """Make or find the folder on rank 0, and write what is known at the start.

    The folder is that of the same job before its ranks were started again; or, with ``--resume auto``, of the run of this
    name; or a new one. An earlier run of the same name is replaced if ``run.overwrite`` says so; otherwise ``-2``, ``-3``,
    ... is added.

    Raises:
        ConfigError: the folder cannot be made or written, another process is writing it, or it may not be replaced; the
            same on every rank.
    """
    launchers = _launchers(world)

    def make() -> RunFolder:
        with _folder_errors():
            run = _find_or_make(config, launchers)
            _lock(run.path)
            # First of all, so that ranks which are started again know the folder however early they were killed.
            start = {"time": time.time(), "host": socket.gethostname(), "ranks": world.size, "launchers": launchers}
            with (run.path / _STARTS).open("a") as lines:
                lines.write(json.dumps(start) + "\n")
            _write(run.path / "config.yaml", dump_config(config))
            write_json(run.path / "environment.json", environment(world))
        return run

    return from_rank_0(world.collectives, make)


def is_restarted(config: Config, world: World, patience: Patience) -> bool:
    """Whether the launcher has started this job's ranks again after they had made their run's folder; collective.

    Raises:
        ConfigError: the folders cannot be read; the same on every rank.
    """
    launchers = _launchers(world)

    def look() -> bool:
        with _folder_errors():
            patience(lambda: _is_run(Path(config.run.dir) / config.run.name), config.run.dir)  # a mount may be away
            return _folder_of_job(config, launchers) is not None

    return from_rank_0(world.collectives, look)


@contextmanager
def _folder_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{error.filename}: {error.strerror}; choose a folder to write to"
        raise ConfigError.at("run.dir", message) from error


def _folder_of_job(config: Config, launchers: list[str]) -> Path | None:
    """The folder that ranks of these launchers have made already."""
    parent = Path(config.run.dir)
    if not launchers or not parent.is_dir():
        return None
    found = (path for path in _folders_of(parent, config.run.name) if not _launchers_of(path).isdisjoint(launchers))
    return next(found, None)


def _find_or_make(config: Config, launchers: list[str]) -> RunFolder:
    parent, name = Path(config.run.dir), config.run.name
    parent.mkdir(parents=True, exist_ok=True)
    if folder := _folder_of_job(config, launchers):
        return RunFolder(folder, continued=True, restarted=True)
    if config.resume.checkpoint == NEWEST and _is_run(parent / name):
        return RunFolder(parent / name, continued=True)
    if config.run.overwrite and _is_inside(config.resume.checkpoint, parent / name):
        message = f"would remove {config.resume.checkpoint}, from which training is to go on; use another run.name"
        raise ConfigError.at("run.overwrite", message)
    if config.run.overwrite and config.checkpoint.enabled and config.checkpoint.dir is not None:
        require_no_checkpoints(f"{config.checkpoint.dir.rstrip('/')}/{name}")  # before anything is removed
    return RunFolder(_fresh_folder(parent, name, overwrite=config.run.overwrite))


def require_no_checkpoints(folder: str, storage: Storage | None = None) -> None:
    """A new run does not mix its checkpoints with another's.

    Raises:
        ConfigError: there are some in the folder.
        CheckpointError: it cannot be listed.
    """
    if paths := checkpoint_paths(folder, storage):
        message = (
            f"{folder} holds {len(paths)} checkpoint(s) of an earlier run; go on with --resume auto or use another name"
        )
        raise ConfigError.at("run.name", message)


def _is_inside(checkpoint: str, folder: Path) -> bool:
    if checkpoint in (NEWEST, NO_CHECKPOINT) or is_remote(checkpoint):
        return False
    return Path(local_path(checkpoint)).resolve().is_relative_to(folder.resolve())


def _is_run(folder: Path) -> bool:
    """Whether a run has worked here, or was killed before it had written anything."""
    if not folder.is_dir():
        return False
    return (folder / "config.yaml").exists() or all(path.name in _FIRST for path in folder.iterdir())


def _folders_of(parent: Path, name: str) -> list[Path]:
    """The folders of runs of a name, ``name-12`` included."""
    pattern = re.compile(rf"{re.escape(name)}(-[0-9]+)?")
    return [path for path in parent.iterdir() if pattern.fullmatch(path.name) and (path / _STARTS).exists()]


def _launchers_of(folder: Path) -> set[str]:
    marks: set[str] = set()
    for line in (folder / _STARTS).read_text().splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a line that a full disk cut
            marks.update(json.loads(line)["launchers"])
    return marks


def _launchers(world: World) -> list[str]:
    """What torchelastic's agents are known by, which live on where they start their ranks again; collective."""
    mark = process_mark(os.getppid()) if "TORCHELASTIC_RUN_ID" in os.environ else None
    return [found for found in world.collectives.all_gather_object(mark) if found is not None]


def _lock(folder: Path) -> None:
    """Keep others from the folder as long as this process lives; only hosts that share locks notice each other."""
    file = (folder / ".lock").open("a")
    deadline = time.monotonic() + _LOCK_PATIENCE_S  # a process that was killed may take a moment to be gone
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                message = f"another process is training into {folder}/; wait for it or use another name"
                raise ConfigError.at("run.name", message) from None
            time.sleep(0.1)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            break  # a file system without locks
        else:
            break
    _locks.append(file)


def _fresh_folder(parent: Path, name: str, *, overwrite: bool) -> Path:
    if overwrite and (parent / name / "config.yaml").exists():  # only what looks like a run is ever removed
        _lock(parent / name)
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
        "packages": package_versions(),
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


def package_versions() -> dict[str, str]:
    """The packages that decide what is computed, as far as they are installed."""
    return {name: version for name in _PACKAGES if (version := _version(name)) is not None}


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
    _write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    beside = path.with_suffix(path.suffix + ".part")
    beside.write_text(text)
    beside.replace(path)
