"""Preflight: whether the folders of a job are the same for all its hosts and outlive them.

A relative path means another folder where the job does not run in the folder from which it is submitted: in the copy that
``-cfg job_dir=`` or Ray makes of it, and in a container. In a container, what lies on no mount is gone at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from preflight_cluster import CONTAINERS

if TYPE_CHECKING:
    from preflight import Request

RUN_DIR = "run.dir"
_DEFAULT_RUN_DIR = "runs"
_CHECKPOINTS = "checkpoint.dir"
_RESUME = "resume.checkpoint"
_NO_PATHS = ("none", "auto", "job")  # words of resume.checkpoint
_MODELS = "models"
_OTHERS = ("data.path", "data.paths", "input", "output", "export", "path", _MODELS)
_MOUNTS_OF = {"kubernetes": "type=volume,src=CLAIM", "aws_batch": "type=volume,src=EFS-ID"}
_OF_ONE_HOST = ("tmpfs", "ramfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay", "f2fs")


@dataclass(frozen=True)
class _Place:
    """Where a job runs.

    Attributes:
        name: in words; empty: in the folder from which it is submitted.
        is_container: whether only mounts are seen by others.
    """

    name: str
    is_container: bool = False


def faults(request: Request) -> list[str]:
    """Paths that would mean something else where the job runs; ``request`` is a :class:`preflight.Request`."""
    place, options = _place(request), request.options
    found = [*_config_fault(request, place), *_resume_fault(request, place, options)]
    if request.component == "train":
        found += _run_dir_faults(request, place, options)
    for name in (*_OTHERS, *[_CHECKPOINTS] * (not place.is_container)):
        for path in _paths(_exports(options.get(name)) if name == _MODELS else options.get(name)):
            if place.name and not os.path.isabs(path):
                found.append(_relative(request, name, path, place))
    if request.component != "train" and place.is_container:
        for path in _paths(options.get("output")):
            found += _on_no_mount(request, "output", path)
    return found


def warnings(request: Request) -> list[str]:
    """Folders that look as if this host alone had them."""
    name, folder = RUN_DIR, request.run_dir or request.options.get(RUN_DIR, _DEFAULT_RUN_DIR)
    if request.component == "predict":
        name, folder = "output", request.options.get("output")
    if request.scheduler not in ("slurm", "ray") or request.hosts[1] < 2 or not folder:
        return []
    kind = file_system(Path(os.path.abspath(str(folder))))  # Slurm starts jobs where they were submitted
    if kind not in _OF_ONE_HOST:
        return []
    return [f"{name} {folder} is on a disk of this host ({kind}); all hosts of the job must see the same folder"]


def _place(request: Request) -> _Place:
    scheduler, cfg = request.scheduler, request.submission.cfg
    if scheduler in CONTAINERS:
        return _Place("a container", is_container=True)
    if scheduler == "ray":
        return _Place("Ray's copy of this folder")
    if scheduler == "slurm" and cfg.get("job_dir"):
        return _Place(f"the copy of this folder in {cfg['job_dir']}")
    return _Place("")


def _config_fault(request: Request, place: _Place) -> Iterator[str]:
    looked_at = request.is_cluster and not place.is_container  # on this machine the trainer says it at once
    if looked_at and request.config and not Path(request.config).is_file():
        yield f"--config {request.config}: no such file; give the path of a YAML file"


def _run_dir_faults(request: Request, place: _Place, options: Mapping[str, Any]) -> Iterator[str]:
    given = request.run_dir or options.get(RUN_DIR)
    folder = str(given or _DEFAULT_RUN_DIR)
    checkpoints = str(options.get(_CHECKPOINTS) or folder)
    if place.is_container:
        if "://" not in checkpoints:
            yield from _on_no_mount(request, RUN_DIR, folder, flag="--run_dir")
            if checkpoints != folder:
                yield from _on_no_mount(request, _CHECKPOINTS, checkpoints)
    elif place.name and not os.path.isabs(folder):
        yield _relative(request, RUN_DIR, folder, place, flag="--run_dir")


def _resume_fault(request: Request, place: _Place, options: Mapping[str, Any]) -> Iterator[str]:
    path = options.get(_RESUME)
    if not isinstance(path, str) or path in _NO_PATHS or "://" in path:
        return
    if place.name and not os.path.isabs(path):
        yield _relative(request, _RESUME, path, place)
    elif place.is_container:
        yield from _on_no_mount(request, _RESUME, path)
    elif not Path(path).expanduser().exists():
        yield f"{_RESUME} {path} does not exist here: give a checkpoint or a run that all hosts see"


def _relative(request: Request, name: str, path: str, place: _Place, flag: str = "") -> str:
    hint = f"give an absolute path ({flag or '--' + name})"
    return f"{request.scheduler}: {name} {path} is relative and would be looked for in {place.name}: {hint}"


def _on_no_mount(request: Request, name: str, path: str, flag: str = "") -> Iterator[str]:
    """A fault if what lies there is gone with the container."""
    targets = [str(mount.dst_path) for mount in request.mounts]
    if os.path.isabs(path) and any(PurePosixPath(path).is_relative_to(target) for target in targets):
        return
    where = f"the mounts are at {', '.join(targets)}" if targets else "there are none"
    kind = _MOUNTS_OF.get(request.scheduler, "type=bind,src=/FOLDER")
    yield (
        f"{request.scheduler}: {name} {path} lies on no mount ({where}) and would be gone with the container: give "
        f"--mounts {kind},dst=/shared and a path in it ({flag or '--' + name} /shared/...)"
    )


def _exports(models: Any) -> Any:
    """The paths in ``name=path,name=path``."""
    if not isinstance(models, str) or "=" not in models:
        return models
    return [part.partition("=")[2] for part in models.split(",")]


def _paths(value: Any) -> list[str]:
    """The local paths in an option."""
    values = value if isinstance(value, list) else [value]
    return [path for path in values if isinstance(path, str) and path and "://" not in path and path[0] != "~"]


def file_system(path: Path) -> str:
    """The kind of the file system on which a path lies or would be made, as /proc/mounts has it; empty if not known."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    fields = [line.split() for line in lines]
    inside = [(len(found[1]), found[2]) for found in fields if path.is_relative_to(found[1].replace("\\040", " "))]
    return max(inside, default=(0, ""))[1]
