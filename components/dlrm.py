"""torchx components of this project: how a job is described to a scheduler.

    torchx run -s local_cwd components/dlrm.py:train -j 2 --config configs/quickstart.yaml -- --train.epochs 2
    torchx run -s slurm components/dlrm.py:train -j 2x8 --config configs/criteo_terabyte_dcnv2.yaml
    torchx run -s slurm components/dlrm.py:preprocess -j 4x1 -- --input='raw/day_*' --output=packed
    torchx run -s slurm components/dlrm.py:benchmark -j 2x8 --config configs/mlperf_dlrm_dcnv2.yaml -- --output=/shared/out
    torchx run -s slurm components/dlrm.py:command -- materialize packed

This file imports torchx and the standard library only, because the machine that launches a job need not be able to run
it. torchx 0.7.0's parser accepts Optional, List and Dict of typing, not ``X | None`` or ``list[str]``, and makes the
help of ``torchx run components/dlrm.py:train --help`` from the docstring. torchx reads the file and runs its text, so that
it has no ``__file__``: what it needs of launch/ is looked for in the current directory, where the job starts as well.
"""

import os
import re
import secrets
import shlex
import sys
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Dict, List, Optional, Sequence

from torchx import specs

# A rank's share of a host where nothing else is said; GPU hosts have more, but what fits on all of them waits for none.
CPUS_PER_RANK = 4
MEMORY_MB_PER_CPU = 4096
RESTARTS_OVER_HOSTS = 3
NUMA_BINDINGS = ("node", "socket", "exclusive", "core-complex")  # of torchrun --numa-binding
SECRET = "DLRM_JOB_SECRET"  # read by launch/signed_store.py
# SIGUSR1 comes 300 s before the end of the job's time: all ranks save and Slurm starts the job again (launch/elastic.py).
# What it prints then comes after what it has printed before.
FOR_SBATCH = {"SBATCH_SIGNAL": "USR1@300", "SBATCH_OPEN_MODE": "append", "SLURM_OPEN_MODE": "append"}


def train(
    *script_args: str,
    config: str,
    j: str = "1",
    h: str = "",
    cpu: int = -1,
    gpu: int = -1,
    memMB: int = -1,
    image: str = "",
    mounts: Optional[List[str]] = None,
    env: Optional[Dict[str, str]] = None,
    run_dir: str = "",
    log_dir: str = "",
    max_retries: int = 3,
    max_restarts: int = -1,
    numa: str = "",
    rdzv_port: int = 0,
    python: str = "",
    name: str = "dlrm",
    script: str = "dlrm_main.py",
) -> specs.AppDef:
    """Train a model: on each host one launcher (launch/elastic.py), which starts one process per rank.

    A job that its scheduler starts again goes on in its run's folder where it was (--resume job).

    Args:
        script_args: further arguments of the trainer, after --, e.g. -- --train.epochs 2
        config: YAML file of the run, e.g. configs/quickstart.yaml
        j: hosts x ranks on each, e.g. 2x8; fewest:most hosts, e.g. 2:4x8; or ranks on one host, e.g. 8
        h: named resource of torchx for each host, instead of cpu, gpu and memMB
        cpu: cores of each host; 4 a rank if left out
        gpu: GPUs of each host; one a rank if left out, 0 to train on CPU
        memMB: memory of each host in MB; 4096 a core if left out
        image: container image, for schedulers that use one
        mounts: of containers, e.g. type=volume,src=claim,dst=/data or type=bind,src=/shared,dst=/shared
        env: environment variables, e.g. NCCL_DEBUG=INFO,NCCL_IB_HCA=mlx5_0
        run_dir: folder of the runs that all hosts share, an absolute path; run.dir of the configuration if left out
        log_dir: folder for what each rank prints, a file each, beside the terminal
        max_retries: how often the scheduler starts the job again after it failed; mistakes of the user are not tried again
        max_restarts: how often all ranks are started again within that; 3 over several hosts, none on one, if left out
        numa: binds ranks to cores near their GPU: node, socket, exclusive or core-complex
        rdzv_port: port on the first host where the hosts meet; made from the job's id if left out
        python: interpreter on the hosts; the image's, .venv/bin/python or python3 if left out
        name: name of the job
        script: what each rank runs
    """
    hosts = _Hosts.parse(j)
    if run_dir:
        script_args = (f"--run.dir={run_dir}", *script_args)
    argv = [script, "train", "--config", config, "--resume", "job", *script_args]
    restarts = max_restarts if max_restarts >= 0 else RESTARTS_OVER_HOSTS * (hosts.most > 1)
    options = ["--max-restarts", str(restarts), *_numa_binding(numa)]
    options += ["--log-dir", log_dir, "--tee", "3"] if log_dir else []
    host = _Host(
        resource=_resource(h, cpu, gpu if gpu >= 0 else hosts.ranks, memMB, ranks=hosts.ranks),
        python=python,
        image=image,
        mounts=mounts or [],
        env=env or {},
    )
    _check("train", hosts, host, config, script_args, run_dir=run_dir)
    return _job(name, "train", argv, hosts, host, options, rdzv_port=rdzv_port, max_retries=max_retries)


def preprocess(
    *script_args: str,
    config: Optional[str] = None,
    j: str = "1x1",
    h: str = "",
    cpu: int = -1,
    memMB: int = -1,
    image: str = "",
    mounts: Optional[List[str]] = None,
    env: Optional[Dict[str, str]] = None,
    max_retries: int = 3,
    rdzv_port: int = 0,
    python: str = "",
    name: str = "dlrm-preprocess",
    script: str = "dlrm_main.py",
) -> specs.AppDef:
    """Turn raw Criteo files into a packed data set: the hosts share the files among them, with the same result as one.

    All hosts must see the input and the output folder. Started again after a failure, the job goes on where it was.

    Args:
        script_args: options of preprocess, after --, e.g. -- --input=raw --output=packed --shuffle
        config: YAML file with options
        j: hosts x processes on each, e.g. 4x1; one process uses all cores of its host by threads (--workers)
        h: named resource of torchx for each host, instead of cpu and memMB
        cpu: cores of each host; 4 a process if left out
        memMB: memory of each host in MB; 4096 a core if left out
        image: container image, for schedulers that use one
        mounts: of containers, e.g. type=volume,src=claim,dst=/data or type=bind,src=/shared,dst=/shared
        env: environment variables of the job
        max_retries: how often the scheduler starts the job again after it failed; mistakes of the user are not tried again
        rdzv_port: port on the first host where the hosts meet; made from the job's id if left out
        python: interpreter on the hosts; the image's, .venv/bin/python or python3 if left out
        name: name of the job
        script: what each process runs
    """
    hosts = _Hosts.parse(j)
    argv = [script, "preprocess", *(["--config", config] if config else []), *script_args]
    host = _Host(
        resource=_resource(h, cpu, 0, memMB, ranks=hosts.ranks),
        python=python,
        image=image,
        mounts=mounts or [],
        env=env or {},
    )
    _check("preprocess", hosts, host, config or "", script_args)
    restarts = ["--max-restarts", "0"]
    return _job(name, "preprocess", argv, hosts, host, restarts, rdzv_port=rdzv_port, max_retries=max_retries)


def benchmark(
    *script_args: str,
    config: str,
    j: str = "1",
    h: str = "",
    cpu: int = -1,
    gpu: int = -1,
    memMB: int = -1,
    image: str = "",
    mounts: Optional[List[str]] = None,
    env: Optional[Dict[str, str]] = None,
    error_file: str = "",
    max_retries: int = 0,
    numa: str = "",
    rdzv_port: int = 0,
    python: str = "",
    name: str = "dlrm-benchmark",
    script: str = "dlrm_main.py",
) -> specs.AppDef:
    """Measure how fast a configuration trains on so many hosts: a point of dlrm_main.py scale is such a job.

    Args:
        script_args: options of benchmark, after --, e.g. -- --output=/shared/out --steps 100
        config: YAML file of a training, with further options of benchmark
        j: hosts x ranks on each, e.g. 2x8; or ranks on one host, e.g. 8
        h: named resource of torchx for each host, instead of cpu, gpu and memMB
        cpu: cores of each host; 4 a rank if left out
        gpu: GPUs of each host; one a rank if left out, 0 to train on CPU
        memMB: memory of each host in MB; 4096 a core if left out
        image: container image, for schedulers that use one
        mounts: of containers, e.g. type=volume,src=claim,dst=/data or type=bind,src=/shared,dst=/shared
        env: environment variables, e.g. NCCL_DEBUG=INFO,NCCL_IB_HCA=mlx5_0
        error_file: each host leaves there why the job failed, in a file of this name with a dot and the host's
        max_retries: how often the scheduler starts the job again after it failed
        numa: binds ranks to cores near their GPU: node, socket, exclusive or core-complex
        rdzv_port: port on the first host where the hosts meet; made from the job's id if left out
        python: interpreter on the hosts; the image's, .venv/bin/python or python3 if left out
        name: name of the job
        script: what each rank runs
    """
    hosts = _Hosts.parse(j)
    argv = [script, "benchmark", "--config", config, *script_args]
    host = _Host(
        resource=_resource(h, cpu, gpu if gpu >= 0 else hosts.ranks, memMB, ranks=hosts.ranks),
        python=python,
        image=image,
        mounts=mounts or [],
        env=env or {},
        error_file=error_file,
    )
    _check("benchmark", hosts, host, config, script_args)
    options = ["--max-restarts", "0", *_numa_binding(numa)]
    return _job(
        name, "benchmark", argv, hosts, host, options, rdzv_port=rdzv_port, max_retries=max_retries, goes_on=False
    )


def command(
    *script_args: str,
    h: str = "",
    cpu: int = -1,
    memMB: int = -1,
    image: str = "",
    mounts: Optional[List[str]] = None,
    env: Optional[Dict[str, str]] = None,
    max_retries: int = 0,
    python: str = "",
    name: str = "dlrm-command",
    script: str = "dlrm_main.py",
) -> specs.AppDef:
    """Run another command of dlrm_main.py on one host: materialize, synthesize, checkpoint verify, ...

    Args:
        script_args: the command with its options, after --, e.g. -- materialize /shared/packed
        h: named resource of torchx, instead of cpu and memMB
        cpu: cores; 4 if left out
        memMB: memory in MB; 4096 a core if left out
        image: container image, for schedulers that use one
        mounts: of containers, e.g. type=volume,src=claim,dst=/data or type=bind,src=/shared,dst=/shared
        env: environment variables of the job
        max_retries: how often the scheduler starts the job again after it failed
        python: interpreter on the host; the image's, .venv/bin/python or python3 if left out
        name: name of the job
        script: what is run
    """
    if not script_args:
        raise _refused("no command is given: write it after --, e.g. -- materialize /shared/packed")
    hosts = _Hosts(1, 1, 1)
    host = _Host(
        resource=_resource(h, cpu, 0, memMB, ranks=1), python=python, image=image, mounts=mounts or [], env=env or {}
    )
    _check("command", hosts, host, "", script_args)
    argv = [script, *script_args]
    restarts = ["--max-restarts", "0"]
    return _job(name, "command", argv, hosts, host, restarts, rdzv_port=0, max_retries=max_retries, goes_on=False)


def _numa_binding(numa: str) -> List[str]:
    """Arguments of the launcher."""
    if numa not in ("", *NUMA_BINDINGS):
        raise _refused(f"--numa {numa}: choose one of {', '.join(NUMA_BINDINGS)}")
    return ["--numa-binding", numa] if numa else []


@dataclass(frozen=True)
class _Hosts:
    """How many hosts at least and at most, and how many ranks on each."""

    fewest: int
    most: int
    ranks: int

    @classmethod
    def parse(cls, j: str) -> "_Hosts":
        match = re.fullmatch(r"(?:(?:(\d+):)?(\d+)x)?(\d+)", j)
        if match is None:
            raise _refused(f"-j {j}: write hosts x ranks on each (2x8), fewest:most hosts (2:4x8), or ranks (8)")
        fewest, most, ranks = match.groups()
        hosts = cls(int(fewest or most or 1), int(most or 1), int(ranks))
        if hosts.fewest < 1 or hosts.ranks < 1:
            raise _refused(f"-j {j}: hosts and ranks must be at least 1")
        if hosts.fewest > hosts.most:
            raise _refused(f"-j {j}: the fewest hosts are more than the most")
        return hosts


@dataclass(frozen=True)
class _Host:
    """What each host offers and is given."""

    resource: specs.Resource
    python: str = ""
    image: str = ""
    mounts: List[str] = field(default_factory=list)
    env: Dict[str, str] = field(default_factory=dict)
    error_file: str = ""


def _check(
    component: str, hosts: _Hosts, host: _Host, config: str, script_args: Sequence[str], *, run_dir: str = ""
) -> None:
    """Refuse a job that cannot work (launch/preflight.py)."""
    _from_launch("preflight").check(
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
            raise _refused(f"-h {named}: torchx knows no such resource; give --cpu, --gpu and --memMB") from None
    cpu = cpu if cpu >= 0 else CPUS_PER_RANK * ranks
    memory_mb = memory_mb if memory_mb >= 0 else MEMORY_MB_PER_CPU * cpu
    return specs.resource(cpu=cpu, gpu=gpu, memMB=memory_mb)


def _job(
    name: str,
    role: str,
    argv: List[str],
    hosts: _Hosts,
    host: _Host,
    options: List[str],
    *,
    rdzv_port: int,
    max_retries: int,
    goes_on: bool = True,
) -> specs.AppDef:
    """A role with one replica a host, each of which runs launch/elastic.py; ``goes_on``: where it was, if started again."""
    launcher = ["launch/elastic.py", "--nproc-per-node", str(hosts.ranks), *options]
    # Not into the role's environment, which torchx has Slurm cut at commas; for Slurm see _environment.
    settings = [] if _scheduler() == "slurm" else [f"{name}={_literal(value)}" for name, value in host.env.items()]
    words = [shlex.quote(setting) for setting in settings]
    if host.error_file:  # of each host its own; the launcher leaves there what torchx's local schedulers would read
        words.append(f"TORCHELASTIC_ERROR_FILE={shlex.quote(_literal(host.error_file))}.$$HOSTNAME")
    command = " ".join(["exec", *(["env", *words] if words else []), ""])
    command += f"{_interpreter(host)} {shlex.join(launcher)} {_meeting(hosts, rdzv_port)} "
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
                env=_environment(hosts, host, goes_on=goes_on),
                mounts=_mounts(host),
                port_map={"c10d": rdzv_port} if rdzv_port else {},
            )
        ],
    )


def _mounts(host: _Host) -> List[Any]:
    try:
        return specs.parse_mounts(host.mounts)
    except (KeyError, ValueError):
        example = "type=volume,src=CLAIM,dst=/shared or type=bind,src=/FOLDER,dst=/shared"
        raise _refused(f"--mounts {','.join(host.mounts)}: write {example}") from None


def _interpreter(host: _Host) -> str:
    """As words of a shell on the host; that of this machine for a job on this machine."""
    if host.python:
        return shlex.quote(_literal(host.python))
    if host.image:
        return "python"
    if _is_local():
        return shlex.quote(_literal(sys.executable))
    return '"$$(command -v .venv/bin/python || command -v python3)"'


def _meeting(hosts: _Hosts, port: int) -> str:
    """The hosts meet at the first one, whose address the scheduler puts into an environment variable of each."""
    if hosts.most == 1:
        return "--standalone --local-addr localhost"
    number = str(hosts.most) if hosts.fewest == hosts.most else f"{hosts.fewest}:{hosts.most}"
    endpoint = f"$${{{specs.macros.rank0_env}:-localhost}}" + (f":{port}" if port else "")
    meeting = f"--nnodes {number} --rdzv-backend c10d --rdzv-id {specs.macros.app_id}"
    return f"{meeting} --rdzv-endpoint {endpoint}"


def _environment(hosts: _Hosts, host: _Host, *, goes_on: bool) -> Dict[str, str]:
    """Of the role: the secret by which several hosts of a job know each other; one host makes its own.

    For Slurm this and the user's variables are set in this process, whose environment sbatch hands on: torchx has Slurm
    print the commands of a job, the role's environment included. So is what sbatch and srun read themselves.
    """
    secret = {} if hosts.most == 1 else {SECRET: os.environ.get(SECRET) or secrets.token_hex(32)}
    if _scheduler() == "slurm":
        cpus = {"SRUN_CPUS_PER_TASK": str(host.resource.cpu)}  # from 22.05 on srun does not take it from sbatch
        again = {"DLRM_REQUEUE": "1"} if goes_on else {}  # read by launch/scheduler.py
        for variable, value in {**FOR_SBATCH, **cpus, **again, **secret}.items():
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
    submission = _from_launch("torchx_cli").submission()
    return submission.scheduler if submission else ""


def _refused(line: str) -> BaseException:
    """What to raise: under torchx's command, which would make a traceback of an error, the line is printed."""
    if os.path.basename(sys.argv[0]) != "torchx":
        return ValueError(line)
    print(line, file=sys.stderr)  # noqa: T201
    return SystemExit(2)


def _from_launch(name: str) -> Any:
    """A module of launch/."""
    folder = os.path.abspath("launch")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise _refused(f"{folder} is not there: run torchx in the folder that holds components/dlrm.py") from None
