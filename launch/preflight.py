"""What is wrong with a job that is about to be submitted: one line a fault, each with what to do, before anything is.

The components call :func:`check`. Under ``torchx run`` the faults are printed and the client ends with exit code 2; under
``--dryrun`` they are printed only; a caller in Python gets a ValueError with the lines. Which checks apply depends on the
scheduler; called from Python, where it is not known, only those that hold for all are made.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # torchx executes components from another place

import preflight_cluster
import preflight_paths
import torchx_gaps
from torchx import specs
from torchx_cli import Submission, submission
from trainer_options import read_options

USER_ERROR_EXIT_CODE = 2  # as in launch/elastic.py
TRAINING = ("train", "benchmark", "evaluate")  # components whose ranks need a GPU each
ALL_OR_NOTHING = ("slurm", "aws_batch")


@dataclass(frozen=True)
class Request:
    """A job as a component describes it, and what it is handed over with.

    Attributes:
        component: train, preprocess, ...
        submission: scheduler and its settings.
        hosts: the fewest and the most.
        ranks_per_host: processes that share a host's resource.
        resource: of each host; fields below zero are not given.
        image: container image; for schedulers without containers a folder or empty.
        mounts: what is mounted into each container.
        run_dir: folder of the runs as the component was given it; empty: as the configuration says.
        config: YAML file; empty: none.
        script_args: words after the file.
    """

    component: str = "train"
    submission: Submission = field(default_factory=Submission)
    hosts: tuple[int, int] = (1, 1)
    ranks_per_host: int = 1
    resource: specs.Resource = field(default_factory=lambda: specs.Resource(cpu=-1, gpu=-1, memMB=-1))
    image: str = ""
    mounts: Sequence[Any] = ()
    run_dir: str = ""
    config: str = ""
    script_args: Sequence[str] = ()

    @property
    def scheduler(self) -> str:
        """Name of the scheduler; empty if it is not known."""
        return self.submission.scheduler

    @property
    def is_cluster(self) -> bool:
        """Whether the job runs on other machines than this one."""
        return self.scheduler != "" and not self.scheduler.startswith("local")

    @property
    def options(self) -> dict[str, Any]:
        """Dotted options of the run as far as they can be known here."""
        return read_options(self.config, self.script_args)


def check(
    *,
    component: str,
    hosts: tuple[int, int],
    ranks_per_host: int,
    resource: specs.Resource,
    image: str = "",
    mounts: Sequence[Any] = (),
    run_dir: str = "",
    config: str = "",
    script_args: Sequence[str] = (),
) -> None:
    """Refuse a job that cannot work; see :class:`Request` for the arguments.

    Raises:
        SystemExit: with exit code 2, under ``torchx run``; the lines were printed.
        ValueError: with the lines, called from Python.
    """
    asked = submission()
    request = Request(
        component=component,
        submission=asked or Submission(),
        hosts=hosts,
        ranks_per_host=ranks_per_host,
        resource=resource,
        image=image,
        mounts=mounts,
        run_dir=run_dir,
        config=config,
        script_args=script_args,
    )
    found = faults(request)
    if asked is None:
        if found:
            raise ValueError("\n".join(found))
        return
    torchx_gaps.fill(asked.scheduler)
    label = "without --dryrun this would be refused: " if asked.dryrun else ""
    for line in [*(f"warning: {line}" for line in warnings(request)), *(f"{label}{line}" for line in found)]:
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    if found and not asked.dryrun:
        raise SystemExit(USER_ERROR_EXIT_CODE)


def faults(request: Request) -> list[str]:
    """Why the job cannot work: a line each."""
    found = list(_resource_faults(request))
    known = ", ".join(request.submission.known)
    found += [f"-cfg {name}: {request.scheduler} has no such option; {known}" for name in request.submission.unknown]
    if request.scheduler:
        found += preflight_cluster.faults(request)
        found += _host_faults(request)
        found += preflight_paths.faults(request)
    return found


def warnings(request: Request) -> list[str]:
    """What the user may not want: a line each."""
    found = list(_waste(request))
    if request.scheduler:
        found += preflight_cluster.warnings(request)
        found += preflight_paths.warnings(request)
    return found


def _resource_faults(request: Request) -> Iterator[str]:
    ranks, resource = request.ranks_per_host, request.resource
    needs_gpus = request.component in TRAINING and request.options.get("distributed.device") != "cpu"
    if needs_gpus and 0 < resource.gpu < ranks:
        yield f"{ranks} ranks on a host of {resource.gpu} GPUs: each needs one; ask for {ranks} (--gpu) or fewer ranks (-j)"
    if resource.gpu == 0 and request.options.get("distributed.device") == "cuda":
        yield f"distributed.device is cuda, and no GPU is asked for: give --gpu {ranks}, or take another device"
    if 0 < resource.cpu < ranks and request.is_cluster:
        yield f"{ranks} ranks on a host of {resource.cpu} cores: ask for {ranks} or more (--cpu), or fewer ranks (-j)"


def _host_faults(request: Request) -> Iterator[str]:
    fewest, most = request.hosts
    if fewest < most and request.scheduler in ALL_OR_NOTHING:
        yield (
            f"{request.scheduler} starts a job with all of its hosts or not at all: give {most} hosts, not {fewest}:{most} "
            "(-j); when one is lost the job is started again with as many"
        )


def _waste(request: Request) -> Iterator[str]:
    ranks, gpus = request.ranks_per_host, request.resource.gpu
    if gpus > ranks and request.component in TRAINING:
        yield f"{gpus} GPUs on a host of {ranks} ranks: {gpus - ranks} would do nothing (-j)"
    batch, world = request.options.get("train.global_batch_size"), request.hosts[1] * ranks
    if isinstance(batch, int) and batch < world:
        yield f"train.global_batch_size {batch} is less than the {world} ranks: some of them would have no samples"
