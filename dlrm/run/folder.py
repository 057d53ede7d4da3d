"""The folder a run leaves behind: ``<run.dir>/<run.name>/``.

run.json, config.yaml, environment.json, processes.jsonl, plan.txt, metrics.jsonl, log/, heartbeat/, tensorboard/,
checkpoints/, curves.png and, at the end, summary.json and report.html (:mod:`dlrm.run.files`). Only global rank 0 writes,
but for logs, heartbeats and its part of checkpoints.

A run may be the work of several jobs, one after the other (``--resume auto``), of several attempts of a scheduler at a job,
and of several starts of all ranks within an attempt, where a launcher starts them again after one has died. processes.jsonl
has a line for each start, by which the ranks of a job know its folder again: by its launchers, which live as long as an
attempt, and with ``--resume job`` by the job's id as well.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from dlrm.checkpoint.folder import checkpoint_paths
from dlrm.checkpoint.owner import process_mark
from dlrm.checkpoint.patience import Patience
from dlrm.checkpoint.storage import Storage
from dlrm.config import Config, dump_config
from dlrm.config.checkpoint import NEWEST, NO_CHECKPOINT
from dlrm.distributed.collectives import from_rank_0
from dlrm.distributed.job import WHERE_IDS_ARE, Job, this_job
from dlrm.distributed.world import World
from dlrm.errors import ConfigError
from dlrm.files import alone
from dlrm.format import local_time
from dlrm.remote.paths import is_remote, local_path
from dlrm.run.environment import environment
from dlrm.run.files import LOCK, MARKER, STARTS, find_foreign, is_run, marker_text, remove_run
from dlrm.run.secondary import reason, write_json, write_text

CAUSE_VARIABLE = "DLRM_RESTART_CAUSE"  # set by a launcher that starts ranks again: why, in a line
_LOCK_PATIENCE_S = 10.0
_LOST_HOST_PATIENCE_S = 120.0  # what a host held that is lost, NFS gives back after 90 s
_locks: list[ExitStack] = []  # held until the process ends


@dataclass
class RunFolder:
    """A run's folder, seen from one rank.

    Attributes:
        path: of the folder.
        continued: whether earlier processes have worked on the run, whose checkpoints are to be looked for.
        restarted: whether these were of the same job (same launchers; or the scheduler's, where ``resume.job`` says so).
        launchers: what the job's launchers are known by, which start its ranks again; none without torchelastic.
        lines: what the user has to know of it.
        started_s: when rank 0 began this start of all ranks, seconds since the epoch on its host.
    """

    path: Path
    continued: bool = False
    restarted: bool = False
    launchers: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    started_s: float = field(default_factory=time.time)


def open_run_folder(config: Config, world: World) -> RunFolder:
    """Make or find the folder on rank 0, and write what is known at the start.

    The folder is that of the same job before its ranks were started again; or, with ``--resume auto``, of the run of this
    name; or a new one. With ``--resume job`` it is the same job as well where its scheduler has started it again. An
    earlier run of the same name is replaced if ``run.overwrite`` says so; otherwise ``-2``, ``-3``, ... is added. What is
    no run, or holds more than one, is not replaced.

    Raises:
        ConfigError: the folder cannot be made or written, another process is writing it, or it may not be replaced; the
            same on every rank.
    """
    launchers = _launchers(world)

    def make() -> RunFolder:
        with _folder_errors():
            run = _find_or_make(config, launchers, this_job())
            _lock(run.path, _LOST_HOST_PATIENCE_S if run.restarted else _LOCK_PATIENCE_S)
            if config.run.overwrite and not run.continued:
                _empty(run.path)
            try:
                _write_start(run, config, world, launchers)
            except OSError as error:
                if not run.continued:
                    raise
                problem = f"{error.filename or run.path}: {reason(error)}"
                return replace(
                    run, lines=[f"warning: {problem}; the folder tells of earlier starts only, the run goes on"]
                )
        if config.resume.job and not this_job().id:
            run.lines.append(f"resume.job: no scheduler has named its job ({WHERE_IDS_ARE}), so that this is a new one")
        return run

    return replace(from_rank_0(world.collectives, make), launchers=launchers)


def _write_start(run: RunFolder, config: Config, world: World, launchers: list[str]) -> None:
    folder = run.path
    start = {"time": run.started_s, "host": socket.gethostname(), "pid": os.getpid(), "ranks": world.size}
    write_text(folder / MARKER, marker_text())
    # Next, so that ranks which are started again know the folder however early they were killed.
    with (folder / STARTS).open("a") as lines:
        of_job = {"launchers": launchers, "job": asdict(this_job()), "cause": os.environ.get(CAUSE_VARIABLE)}
        lines.write(json.dumps({**start, **of_job}) + "\n")
    write_text(folder / "config.yaml", dump_config(config))
    write_json(folder / "environment.json", environment(world))


def is_restarted(config: Config, world: World, patience: Patience) -> bool:
    """Whether this job's ranks have been started again after they had made their run's folder; collective.

    Raises:
        ConfigError: the folders cannot be read; the same on every rank.
    """
    launchers = _launchers(world)

    def look() -> bool:
        with _folder_errors():
            patience(lambda: is_run(Path(config.run.dir) / config.run.name), config.run.dir)  # a mount may be away
            return _folder_of_job(config, launchers, this_job()) is not None

    return from_rank_0(world.collectives, look)


@contextmanager
def _folder_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{error.filename}: {error.strerror}; choose a folder to write to"
        raise ConfigError.at("run.dir", message) from error


def _folder_of_job(config: Config, launchers: list[str], job: Job) -> Path | None:
    """The folder that ranks of these launchers, or of the scheduler's job, have made already."""
    parent, job_id = Path(config.run.dir), job.id if config.resume.job else ""
    if not (launchers or job_id) or not parent.is_dir():
        return None
    for folder in _folders_of(parent, config.run.name):
        if any(job_id == start.job or not start.launchers.isdisjoint(launchers) for start in _starts_in(folder)):
            return folder
    return None


def _find_or_make(config: Config, launchers: list[str], job: Job) -> RunFolder:
    parent, name = Path(config.run.dir), config.run.name
    parent.mkdir(parents=True, exist_ok=True)
    if folder := _folder_of_job(config, launchers, job):
        return RunFolder(folder, continued=True, restarted=True)
    if config.resume.checkpoint == NEWEST and is_run(parent / name):
        return RunFolder(parent / name, continued=True)
    for beginning in (config.resume.checkpoint, config.warm_start.checkpoint):
        if config.run.overwrite and _is_inside(beginning, parent / name):
            message = f"would remove {beginning}, from which training is to go on; use another run.name"
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


def _folders_of(parent: Path, name: str) -> list[Path]:
    """The folders of runs of a name, then ``name-12`` and the like."""
    pattern = re.compile(rf"{re.escape(name)}(-[0-9]+)?")
    found = [path for path in parent.iterdir() if pattern.fullmatch(path.name) and (path / STARTS).exists()]
    return sorted(found, key=lambda path: (path.name != name, path.name))


@dataclass(frozen=True)
class _Start:
    """Who has started ranks; ``job`` is None where no scheduler had."""

    launchers: frozenset[str]
    job: str | None


def _starts_in(folder: Path) -> Iterator[_Start]:
    for line in (folder / STARTS).read_bytes().splitlines():
        with suppress(
            ValueError, KeyError, TypeError, AttributeError, RecursionError
        ):  # a line that a full disk cut, or that is damaged
            start = json.loads(line)
            yield _Start(frozenset(start["launchers"]), start.get("job", {}).get("id") or None)


def _launchers(world: World) -> list[str]:
    """What torchelastic's agents are known by, which live on where they start their ranks again; collective."""
    mark = process_mark(os.getppid()) if "TORCHELASTIC_RUN_ID" in os.environ else None
    return [found for found in world.collectives.all_gather_object(mark) if found is not None]


def _lock(folder: Path, patience_s: float) -> None:
    """Keep others from the folder as long as this process lives; only hosts that share locks notice each other."""
    held = ExitStack()
    try:  # a process that was killed may take a moment to be gone
        held.enter_context(alone(folder / LOCK, patience_s=patience_s))
    except BlockingIOError:
        who = f"another process{_last_start(folder)}"
        message = f"{who} is training into {folder}/; wait for it or use another name"
        raise ConfigError.at("run.name", message) from None
    _locks.append(held)


def _last_start(folder: Path) -> str:
    """Who has begun to work in a folder last, in words; nothing where that is not known."""
    with suppress(OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        start = json.loads((folder / STARTS).read_bytes().splitlines()[-1])
        return f" (host {start['host']}, pid {start['pid']}, since {local_time(start['time'])})"
    return ""


def _fresh_folder(parent: Path, name: str, *, overwrite: bool) -> Path:
    if overwrite and os.path.lexists(parent / name):
        return _replaceable(parent / name)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _replaceable(folder: Path) -> Path:
    if folder.is_symlink() or not folder.is_dir():
        raise _not_replaced(f"{folder} is no folder of a run, but a file or a link")
    if not is_run(folder):
        raise _not_replaced(f"{folder} is no run of this trainer (it has no {MARKER})")
    return folder


def _empty(folder: Path) -> None:
    """Remove what an earlier run has left; the folder stays itself, because somebody's shell may be in it."""
    if foreign := find_foreign(folder):
        raise _not_replaced(f"{ascii(f'{folder}/{foreign}')[1:-1]} was not written by a run")
    remove_run(folder)


def _not_replaced(problem: str) -> ConfigError:
    return ConfigError.at("run.overwrite", f"{problem}; nothing was removed: move it away or use another run.name")
