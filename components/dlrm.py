"""torchx components of this project: how a training job is described to a scheduler.

    torchx run -s local_cwd components/dlrm.py:train --nproc 2 --config configs/quickstart.yaml -- --train.epochs 2
    torchx run -s slurm components/dlrm.py:preprocess --nnodes 4 -- --input='raw/day_*' --output=packed

This file imports torchx and the standard library only, because the machine that launches a job need not be able to run
it. torchx 0.7.0's parser accepts Optional, List and Dict of typing, not ``X | None`` or ``list[str]``, and makes the
help of ``torchx run components/dlrm.py:train --help`` from the docstring.
"""

import os
import secrets
import shlex
import sys
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from torchx import specs


def train(
    *script_args: str,
    config: str,
    nproc: int = 1,
    nnodes: str = "1",
    max_restarts: int = 0,
    name: str = "dlrm",
    script: str = "dlrm_main.py",
    image: str = "",
    python: str = "",
    env: Optional[Dict[str, str]] = None,
    cpu: int = -1,
    gpu: int = -1,
    memMB: int = -1,
    rdzv_port: int = 29500,
) -> specs.AppDef:
    """Train a model: on each host one launcher (launch/elastic.py), which starts one process per rank.

    Args:
        script_args: further arguments of the trainer, after --, e.g. -- --train.epochs 2
        config: YAML file of the run, e.g. configs/quickstart.yaml
        nproc: ranks on each host
        nnodes: hosts, or fewest:most, e.g. 2:4: then hosts may die or join, and training goes on with those there are
        max_restarts: how often all ranks are started again after one failed; they go on from the newest checkpoint
        name: name of the job
        script: what each rank runs
        image: container image, for schedulers that use one
        python: interpreter on the hosts; the one that runs torchx if left out (python if there is an image)
        env: environment variables of the job, e.g. NCCL_DEBUG=INFO,NCCL_SOCKET_IFNAME=eth0
        cpu: cores of each host
        gpu: GPUs of each host
        memMB: memory of each host in MB
        rdzv_port: port on the first host where the hosts meet; one host alone takes a free one
    """
    argv = [script, "train", "--config", config, *script_args]
    fewest, most = _fewest_and_most(nnodes)
    launch = _Launch(nproc=nproc, fewest=fewest, nnodes=most, max_restarts=max_restarts, rdzv_port=rdzv_port)
    host = _Host(image=image, python=python, env=env or {}, resource=specs.resource(cpu=cpu, gpu=gpu, memMB=memMB))
    return _job(name, "train", argv, launch, host)


def preprocess(
    *script_args: str,
    config: Optional[str] = None,
    nnodes: int = 1,
    nproc: int = 1,
    name: str = "dlrm-preprocess",
    script: str = "dlrm_main.py",
    image: str = "",
    python: str = "",
    env: Optional[Dict[str, str]] = None,
    cpu: int = -1,
    memMB: int = -1,
    rdzv_port: int = 29500,
) -> specs.AppDef:
    """Turn raw Criteo files into a packed data set: the hosts share the files among them, with the same result as one.

    All hosts must see the input and the output folder. Started again after a failure, the job goes on where it was.

    Args:
        script_args: options of preprocess, after --, e.g. -- --input=raw --output=packed --shuffle
        config: YAML file with options
        nnodes: hosts
        nproc: processes on each host; one uses all cores by threads (--workers)
        name: name of the job
        script: what each process runs
        image: container image, for schedulers that use one
        python: interpreter on the hosts; the one that runs torchx if left out (python if there is an image)
        env: environment variables of the job
        cpu: cores of each host
        memMB: memory of each host in MB
        rdzv_port: port on the first host where the hosts meet; one host alone takes a free one
    """
    argv = [script, "preprocess", *(["--config", config] if config else []), *script_args]
    launch = _Launch(nproc=nproc, fewest=nnodes, nnodes=nnodes, max_restarts=0, rdzv_port=rdzv_port)
    host = _Host(image=image, python=python, env=env or {}, resource=specs.resource(cpu=cpu, gpu=0, memMB=memMB))
    return _job(name, "preprocess", argv, launch, host)


@dataclass(frozen=True)
class _Launch:
    """How many processes start where, on how many hosts at least and at most, and how they find each other."""

    nproc: int
    fewest: int
    nnodes: int
    max_restarts: int
    rdzv_port: int


@dataclass(frozen=True)
class _Host:
    """What each host offers."""

    image: str
    python: str
    env: Dict[str, str]
    resource: specs.Resource


def _fewest_and_most(nnodes: str) -> Tuple[int, int]:
    fewest, colon, most = nnodes.partition(":")
    try:
        found = (int(fewest), int(most if colon else fewest))
    except ValueError:
        raise ValueError(f"nnodes ({nnodes}) must be a number of hosts, or fewest:most such as 2:4") from None
    if found[0] > found[1]:
        raise ValueError(f"nnodes ({nnodes}): the fewest hosts are more than the most")
    return found


def _job(name: str, role: str, argv: List[str], launch: _Launch, host: _Host) -> specs.AppDef:
    """A role with one replica a host, each of which runs launch/elastic.py."""
    nproc, nnodes = launch.nproc, launch.nnodes
    if nproc < 1 or launch.fewest < 1:
        raise ValueError(f"nproc ({nproc}) and nnodes ({launch.fewest}) must be at least 1")
    interpreter = host.python or ("python" if host.image else sys.executable)
    program = [_escape(word) for word in argv]
    restarts = ["--max-restarts", str(launch.max_restarts)]
    launcher = [interpreter, "launch/elastic.py", "--nproc-per-node", str(nproc), *restarts]
    if nnodes == 1:
        command = [*launcher, "--standalone", "--local-addr", "localhost", *program]
    else:
        command = ["bash", "-c", _command_over_hosts(launcher, program, launch)]
    return specs.AppDef(
        name=name,
        roles=[
            specs.Role(
                name=role,
                image=host.image,
                entrypoint=command[0],
                args=command[1:],
                num_replicas=nnodes,
                resource=host.resource,
                env={"DLRM_CLIENT": str(os.getpid()), **_secret(nnodes), **host.env},
                port_map={"c10d": launch.rdzv_port} if nnodes > 1 else {},
            )
        ],
    )


def _secret(nnodes: int) -> Dict[str, str]:
    """The secret by which the hosts of this job know each other (launch/signed_store.py); one host makes its own."""
    if nnodes == 1:
        return {}
    return {"DLRM_JOB_SECRET": os.environ.get("DLRM_JOB_SECRET") or secrets.token_hex(32)}


def _command_over_hosts(launcher: List[str], program: List[str], launch: _Launch) -> str:
    """The hosts meet at the first one, whose address the scheduler puts into an environment variable of each."""
    hosts = str(launch.nnodes) if launch.fewest == launch.nnodes else f"{launch.fewest}:{launch.nnodes}"
    meeting = ["--nnodes", hosts, "--rdzv-backend", "c10d", "--rdzv-id", specs.macros.app_id]
    first_host = f"$${{{specs.macros.rank0_env}:-localhost}}"
    endpoint = f"--rdzv-endpoint {first_host}:{launch.rdzv_port}"
    return f"{shlex.join(launcher)} {' '.join(meeting)} {endpoint} {shlex.join(program)}"


def _escape(text: str) -> str:
    """What the user wrote is meant literally, but torchx substitutes ``${...}`` in arguments."""
    return text.replace("$", "$$")
