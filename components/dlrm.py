"""torchx components of this project: how a training job is described to a scheduler.

    torchx run -s local_cwd components/dlrm.py:train --nproc 2 --config configs/quickstart.yaml -- --train.epochs 2

This file imports torchx and the standard library only, because the machine that launches a job need not be able to run
it. torchx 0.7.0's parser accepts Optional, List and Dict of typing, not ``X | None`` or ``list[str]``, and makes the
help of ``torchx run components/dlrm.py:train --help`` from the docstring.
"""

import os
import shlex
import sys
from typing import Dict, List, Optional

from torchx import specs


def train(
    *script_args: str,
    config: str,
    nproc: int = 1,
    nnodes: int = 1,
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
        nnodes: hosts
        max_restarts: how often all ranks are started again after one failed
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
    if nproc < 1 or nnodes < 1:
        raise ValueError(f"nproc ({nproc}) and nnodes ({nnodes}) must be at least 1")
    interpreter = python or ("python" if image else sys.executable)
    trainer = [_escape(word) for word in (script, "train", "--config", config, *script_args)]
    launcher = [interpreter, "launch/elastic.py", "--nproc-per-node", str(nproc), "--max-restarts", str(max_restarts)]
    if nnodes == 1:
        command = [*launcher, "--standalone", "--local-addr", "localhost", *trainer]
    else:
        command = ["bash", "-c", _command_over_hosts(launcher, trainer, nnodes, rdzv_port)]
    return specs.AppDef(
        name=name,
        roles=[
            specs.Role(
                name="train",
                image=image,
                entrypoint=command[0],
                args=command[1:],
                num_replicas=nnodes,
                resource=specs.resource(cpu=cpu, gpu=gpu, memMB=memMB),
                env={"DLRM_CLIENT": str(os.getpid()), **(env or {})},
                port_map={"c10d": rdzv_port} if nnodes > 1 else {},
            )
        ],
    )


def _command_over_hosts(launcher: List[str], trainer: List[str], nnodes: int, rdzv_port: int) -> str:
    """The hosts meet at the first one, whose address the scheduler puts into an environment variable of each."""
    meeting = ["--nnodes", str(nnodes), "--rdzv-backend", "c10d", "--rdzv-id", specs.macros.app_id]
    first_host = f"$${{{specs.macros.rank0_env}:-localhost}}"
    return f"{shlex.join(launcher)} {' '.join(meeting)} --rdzv-endpoint {first_host}:{rdzv_port} {shlex.join(trainer)}"


def _escape(text: str) -> str:
    """What the user wrote is meant literally, but torchx substitutes ``${...}`` in arguments."""
    return text.replace("$", "$$")
