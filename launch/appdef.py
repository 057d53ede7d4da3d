"""Jobs as torchx describes them: what the components of components/dlrm.py have in common.

Imports torchx and the standard library only, because the machine that launches a job need not be able to run it.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # torchx executes components from another place

import preflight
from torchx import specs
from torchx_cli import submission

# A rank's share of a host where nothing else is said; GPU hosts have more, but what fits on all of them waits for none.
CPUS_PER_RANK = 4
MEMORY_MB_PER_CPU = 4096
RESTARTS_OVER_HOSTS = 3
NUMA_BINDINGS = ("node", "socket", "exclusive", "core-complex")  # of torchrun --numa-binding
SECRET = "DLRM_JOB_SECRET"  # read by launch/signed_store.py
# What a job that is started again prints comes after what it has printed before.
FOR_SBATCH = {"SBATCH_OPEN_MODE": "append", "SLURM_OPEN_MODE": "append"}
# SIGUSR1 comes 300 s before the end of the job's time: all ranks save and Slurm starts the job again (launch/elastic.py).
FOR_LAUNCHER = {"SBATCH_SIGNAL": "USR1@300"}


def numa_binding(numa: str) -> list[str]:
    """Arguments of the launcher."""
    if numa not in ("", *NUMA_BINDINGS):
        raise refused(f"--numa {numa}: choose one of {', '.join(NUMA_BINDINGS)}")
    return ["--numa-binding", numa] if numa else []


@dataclass(frozen=True)
class Hosts:
    """How many hosts at least and at most, and how many ranks on each."""

    fewest: int
    most: int
    ranks: int

    @classmethod
    def parse(cls, j: str) -> Hosts:
        """Read ``2x8``, ``2:4x8`` or ``8``."""
        match = re.fullmatch(r"(?:(?:(\d+):)?(\d+)x)?(\d+)", j)
        if match is None:
            raise refused(f"-j {j}: write hosts x ranks on each (2x8), fewest:most hosts (2:4x8), or ranks (8)")
        fewest, most, ranks = match.groups()
        hosts = cls(int(fewest or most or 1), int(most or 1), int(ranks))
        if hosts.fewest < 1 or hosts.ranks < 1:
            raise refused(f"-j {j}: hosts and ranks must be at least 1")
        if hosts.fewest > hosts.most:
            raise refused(f"-j {j}: the fewest hosts are more than the most")
        return hosts


@dataclass(frozen=True)
class Host:
    """What each host offers and is given."""

    resource: specs.Resource
    python: str = ""
    image: str = ""
    mounts: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    error_file: str = ""

    @classmethod
    def of(
        cls,
        named: str,
        cpu: int,
        gpu: int,
        memory_mb: int,
        *,
        ranks: int,
        python: str,
        image: str,
        mounts: list[str] | None,
        env: dict[str, str] | None,
        error_file: str = "",
    ) -> Host:
        """What the arguments of a component say; below zero: not given."""
        found = _resource(named, cpu, gpu, memory_mb, ranks=ranks)
        return cls(found, python, image, mounts or [], env or {}, error_file)


def check(
    component: str, hosts: Hosts, host: Host, config: str, script_args: Sequence[str], *, run_dir: str = ""
) -> None:
    """Refuse a job that cannot work (launch/preflight.py)."""
    preflight.check(
        component=component,
        hosts=(hosts.fewest, hosts.most),
        ranks_per_host=hosts.ranks,
        resource=host.resource,
        image=host.image,
        mounts=_mounts(host),
        run_dir=run_dir,
        config=config,
        script_args=script_args,
    )


def _resource(named: str, cpu: int, gpu: int, memory_mb: int, *, ranks: int) -> specs.Resource:
    if named:
        try:
            return specs.resource(h=named)
        except KeyError:
            raise refused(f"-h {named}: torchx knows no such resource; give --cpu, --gpu and --memMB") from None
    cpu = cpu if cpu >= 0 else CPUS_PER_RANK * ranks
    memory_mb = memory_mb if memory_mb >= 0 else MEMORY_MB_PER_CPU * cpu
    return specs.resource(cpu=cpu, gpu=gpu, memMB=memory_mb)


def job(
    name: str,
    role: str,
    argv: list[str],
    hosts: Hosts,
    host: Host,
    options: list[str],
    *,
    rdzv_port: int,
    max_retries: int,
    goes_on: bool = True,
) -> specs.AppDef:
    """A role with one replica a host, each of which runs launch/elastic.py; ``goes_on``: where it was, if started again."""
    launcher = ["launch/elastic.py", "--nproc-per-node", str(hosts.ranks), *options]
    command = f"{_start(host)} {shlex.join(launcher)} {_meeting(hosts, rdzv_port)} "
    return specs.AppDef(
        name=name,
        roles=[
            specs.Role(
                name=role,
                image=host.image,
                entrypoint="bash",
                args=["-c", command + shlex.join(_literal(word) for word in argv)],
                num_replicas=hosts.most,
                min_replicas=hosts.fewest if hosts.fewest < hosts.most else None,  # Volcano and Ray begin with as many
                max_retries=max_retries,
                retry_policy=specs.RetryPolicy.APPLICATION,  # the other hosts cannot go on without one of them
                resource=host.resource,
                env=_environment(hosts, host, goes_on=goes_on, launcher=True),
                mounts=_mounts(host),
                port_map={"c10d": rdzv_port} if rdzv_port else {},
            )
        ],
    )


def service(name: str, role: str, argv: list[str], host: Host, *, port: int, max_retries: int) -> specs.AppDef:
    """A role with one replica, which runs the program itself: a signal to stop reaches it, and ranks it has none."""
    alone = Hosts(1, 1, 1)
    return specs.AppDef(
        name=name,
        roles=[
            specs.Role(
                name=role,
                image=host.image,
                entrypoint="bash",
                args=["-c", f"{_start(host)} {shlex.join(_literal(word) for word in argv)}"],
                num_replicas=1,
                max_retries=max_retries,
                resource=host.resource,
                env=_environment(alone, host, goes_on=False, launcher=False),
                mounts=_mounts(host),
                port_map={"http": port},
            )
        ],
    )


def _start(host: Host) -> str:
    """The words of a shell that start Python on a host, in its environment."""
    # Not into the role's environment, which torchx has Slurm cut at commas; for Slurm see _environment.
    settings = [] if _scheduler() == "slurm" else [f"{name}={_literal(value)}" for name, value in host.env.items()]
    words = [shlex.quote(setting) for setting in settings]
    if host.error_file:  # of each host its own; the launcher leaves there what torchx's local schedulers would read
        words.append(f"TORCHELASTIC_ERROR_FILE={shlex.quote(_literal(host.error_file))}.$$HOSTNAME")
    return " ".join(["exec", *(["env", *words] if words else []), _interpreter(host)])


def _mounts(host: Host) -> list[Any]:
    try:
        return specs.parse_mounts(host.mounts)
    except (KeyError, ValueError):
        example = "type=volume,src=CLAIM,dst=/shared or type=bind,src=/FOLDER,dst=/shared"
        raise refused(f"--mounts {','.join(host.mounts)}: write {example}") from None


def _interpreter(host: Host) -> str:
    """As words of a shell on the host; that of this machine for a job on this machine."""
    if host.python:
        return shlex.quote(_literal(host.python))
    if host.image:
        return "python"
    if _is_local():
        return shlex.quote(_literal(sys.executable))
    return '"$$(command -v .venv/bin/python || command -v python3)"'


def _meeting(hosts: Hosts, port: int) -> str:
    """The hosts meet at the first one, whose address the scheduler puts into an environment variable of each."""
    if hosts.most == 1:
        return "--standalone --local-addr localhost"
    number = str(hosts.most) if hosts.fewest == hosts.most else f"{hosts.fewest}:{hosts.most}"
    endpoint = f"$${{{specs.macros.rank0_env}:-localhost}}" + (f":{port}" if port else "")
    meeting = f"--nnodes {number} --rdzv-backend c10d --rdzv-id {specs.macros.app_id}"
    return f"{meeting} --rdzv-endpoint {endpoint}"


def _environment(hosts: Hosts, host: Host, *, goes_on: bool, launcher: bool) -> dict[str, str]:
    """Of the role: the secret by which several hosts of a job know each other; one host makes its own.

    For Slurm this and the user's variables are set in this process, whose environment sbatch hands on: torchx has Slurm
    print the commands of a job, the role's environment included. So is what sbatch and srun read themselves.
    """
    secret = {} if hosts.most == 1 else {SECRET: os.environ.get(SECRET) or secrets.token_hex(32)}
    if _scheduler() == "slurm":
        cpus = {"SRUN_CPUS_PER_TASK": str(host.resource.cpu)}  # from 22.05 on srun does not take it from sbatch
        again = {"DLRM_REQUEUE": "1"} if goes_on else {}  # read by launch/scheduler.py
        save = FOR_LAUNCHER if launcher else {}  # nobody else heeds the signal
        for variable, value in {**FOR_SBATCH, **save, **cpus, **again, **secret}.items():
            os.environ.setdefault(variable, value)
        os.environ.update(host.env)
        return {}
    return {**({"DLRM_CLIENT": str(os.getpid())} if _is_local() else {}), **secret}


def _literal(text: str) -> str:
    """What the user wrote is meant literally, but torchx substitutes ``${...}`` in arguments."""
    return text.replace("$", "$$")


def _is_local() -> bool:
    """Whether the job runs on this machine and ends with the client: torchx's local schedulers, launch/local.py."""
    return _scheduler().startswith("local") or os.environ.get("DLRM_CLIENT") == str(os.getpid())


def _scheduler() -> str:
    """The scheduler for which torchx's command has called this component; empty where something else has called it."""
    asked = submission()
    return asked.scheduler if asked else ""


def refused(line: str) -> BaseException:
    """What to raise: under torchx's command, which would make a traceback of an error, the line is printed."""
    if os.path.basename(sys.argv[0]) != "torchx":
        return ValueError(line)
    print(line, file=sys.stderr)  # noqa: T201
    return SystemExit(2)
