"""Preflight: whether this machine can hand a job to the scheduler, and whether the scheduler can take it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preflight import Request

CONTAINERS = ("kubernetes", "aws_batch", "local_docker")
_PACKAGES = {"kubernetes": "kubernetes", "aws_batch": "boto3", "ray": "ray", "local_docker": "docker"}
_ANSWER_S = 10.0
_RAY_DASHBOARD = "127.0.0.1:8265"  # torchx's default


def faults(request: Request) -> list[str]:
    """What keeps the job from being submitted; ``request`` is a :class:`preflight.Request`."""
    scheduler = request.scheduler
    found = [*_package_fault(scheduler), *_image_faults(request)]
    own: Mapping[str, Callable[[Request], Iterator[str]]] = {
        "slurm": _slurm,
        "kubernetes": _kubernetes,
        "ray": _ray,
        "aws_batch": _aws_batch,
    }
    if scheduler in own and not found:
        found += own[scheduler](request)
    return found


def warnings(request: Request) -> list[str]:
    """What will not work although the job does."""
    found = []
    if request.scheduler == "slurm" and (problem := _failure(["sacct", "--noheader", "--allocations", "--jobs=0"])):
        found.append(
            f"Slurm's accounting does not answer (sacct: {problem}): torchx status and torchx list will fail; the job does "
            "not need them, squeue and the run folder tell of it"
        )
    if request.scheduler == "kubernetes" and (request.resource.cpu <= 0 or request.resource.memMB <= 0):
        found.append(
            "kubernetes: no cores or no memory are asked for (--cpu, --memMB, -h), so the pods are the first to be evicted"
        )
    return found


def _package_fault(scheduler: str) -> Iterator[str]:
    package = _PACKAGES.get(scheduler)
    if package and importlib.util.find_spec(package) is None:
        yield f"{scheduler}: the Python package {package} is not installed where torchx runs: pip install {package}"


def _image_faults(request: Request) -> Iterator[str]:
    scheduler, workspace = request.scheduler, request.submission.workspace
    if scheduler not in CONTAINERS:
        return
    if not request.image:
        yield f"{scheduler}: no image: build one from the Dockerfile, push it and give it by --image"
    if not workspace:
        return
    if problem := _docker_fault():
        yield (
            f"{scheduler}: --workspace {workspace} has an image built here, and Docker does not answer ({problem}): "
            "leave it out (the image holds the code), or start Docker"
        )
    elif scheduler != "local_docker" and not request.submission.cfg.get("image_repo"):
        yield (
            f"{scheduler}: --workspace {workspace} has an image built here, and it is not said where to push it: give "
            f"image_repo (.torchxconfig, [{scheduler}]), or leave --workspace out"
        )


def _docker_fault() -> str:
    """Why no Docker daemon answers; empty if one does."""
    if importlib.util.find_spec("docker") is None:
        return "the Python package docker is not installed"
    import docker

    try:
        client = docker.from_env(timeout=_ANSWER_S)
        client.ping()
        client.close()
    except (docker.errors.DockerException, OSError) as error:
        return _first_line(str(error))
    return ""


def _slurm(request: Request) -> Iterator[str]:
    if shutil.which("sbatch") is None:
        yield "slurm: sbatch is not found: submit from a login node of the cluster, or install Slurm's client"
    elif problem := _failure(["sinfo", "--noheader", "--format=%P"]):
        yield f"slurm: the controller does not answer (sinfo: {problem}): ask who runs the cluster, or try again"
    elif partition := request.submission.cfg.get("partition"):
        there = _answer(["sinfo", "--noheader", "--format=%R"]).split()
        if partition not in there:
            yield f"slurm: no partition {partition}; there are {', '.join(sorted(set(there)))} (-cfg partition=)"
    if folder := request.submission.cfg.get("job_dir"):
        yield from _job_dir_faults(request, Path(folder))


def _job_dir_faults(request: Request, folder: Path) -> Iterator[str]:
    if not request.submission.workspace:
        yield f"slurm: job_dir {folder} is to hold a copy of this folder: give --workspace . as well"
    if not folder.is_absolute():
        yield f"slurm: job_dir {folder} is relative: give a path that all hosts share"
    elif os.path.lexists(folder):
        yield f"slurm: job_dir {folder} exists, and torchx makes it anew for each job: give another one"
    elif not folder.parent.is_dir():
        yield f"slurm: job_dir {folder} cannot be made, because {folder.parent} is no folder: make it first"


def _kubernetes(request: Request) -> Iterator[str]:
    paths = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        yield f"kubernetes: no cluster is named here ({paths} is no file): log in to one, or set KUBECONFIG"


def _ray(request: Request) -> Iterator[str]:
    cfg = request.submission.cfg
    if not request.submission.workspace and not request.image:
        yield "ray: the job runs in a copy of this folder: give --workspace . (before the component's name)"
    if cfg.get("cluster_config_file"):
        return
    address = os.environ.get("RAY_ADDRESS") or cfg.get("dashboard_address") or _RAY_DASHBOARD
    host, _, port = address.rpartition("//")[2].rstrip("/").rpartition(":")
    if not port.isdecimal():  # "auto", or an address behind a proxy: Ray's to make out
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        yield (
            f"ray: no dashboard answers at {address} ({error}): start the cluster, or give its address "
            "(-cfg dashboard_address=HOST:PORT)"
        )


def _aws_batch(request: Request) -> Iterator[str]:
    import boto3

    if request.resource.memMB <= 0:
        yield "aws_batch: no memory is asked for, and AWS Batch insists on it: give --memMB, or -h with an instance type"
    session = boto3.session.Session()
    if session.region_name is None:
        yield "aws_batch: no AWS region: export AWS_DEFAULT_REGION, or run aws configure"
    if session.get_credentials() is None:
        yield "aws_batch: no AWS credentials: run aws configure (or aws sso login)"


def _answer(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S).stdout


def _failure(command: list[str]) -> str:
    """Why a command does not answer; empty if it does."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S)
    except FileNotFoundError:
        return "not installed"
    except subprocess.TimeoutExpired:
        return f"no answer for {_ANSWER_S:.0f} s"
    except OSError as error:
        return str(error.strerror)
    if answer.returncode == 0:
        return ""
    return _first_line(answer.stderr).removeprefix(f"{command[0]}: ") or f"exit code {answer.returncode}"


def _first_line(text: str) -> str:
    with suppress(StopIteration):
        return next(line.strip() for line in text.splitlines() if line.strip())
    return ""
