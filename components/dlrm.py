"""torchx components of this project: how a job is described to a scheduler.

    torchx run -s local_cwd components/dlrm.py:train -j 2 --config configs/quickstart.yaml -- --train.epochs 2
    torchx run -s slurm components/dlrm.py:train -j 2x8 --config configs/criteo_terabyte_dcnv2.yaml
    torchx run -s slurm components/dlrm.py:preprocess -j 4x1 -- --input='raw/day_*' --output=packed
    torchx run -s slurm components/dlrm.py:benchmark -j 2x8 --config configs/mlperf_dlrm_dcnv2.yaml -- --output=/shared/out
    torchx run -s slurm components/dlrm.py:evaluate -j 2x8 --checkpoint /shared/runs/kaggle
    torchx run -s slurm components/dlrm.py:predict -j 4x1 -- --export=export --input='raw/day_*' --output=scores.parquet
    torchx run -s slurm components/dlrm.py:serve --models ads=/shared/export --port 8000
    torchx run -s slurm components/dlrm.py:command -- materialize packed

This file imports torchx and the standard library only, because the machine that launches a job need not be able to run
it. torchx 0.7.0's parser accepts Optional, List and Dict of typing, not ``X | None`` or ``list[str]``, and makes the
help of ``torchx run components/dlrm.py:train --help`` from the docstring. torchx reads the file and runs its text, so that
it has no ``__file__``: what it needs of launch/ is looked for in the current directory, where the job starts as well.
What the components have in common is in launch/appdef.py.
"""

import os
import sys
from importlib import import_module
from typing import Any, Dict, List, Optional

from torchx import specs


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
    error_file: str = "",
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
        error_file: each host leaves there why the job failed, in a file of this name with a dot and the host's
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
    parts = _from_launch("appdef")
    hosts = parts.Hosts.parse(j)
    if run_dir:
        script_args = (f"--run.dir={run_dir}", *script_args)
    argv = [script, "train", "--config", config, "--resume", "job", *script_args]
    restarts = max_restarts if max_restarts >= 0 else parts.RESTARTS_OVER_HOSTS * (hosts.most > 1)
    options = ["--max-restarts", str(restarts), *parts.numa_binding(numa)]
    options += ["--log-dir", log_dir, "--tee", "3"] if log_dir else []
    host = parts.Host.of(
        h,
        cpu,
        gpu if gpu >= 0 else hosts.ranks,
        memMB,
        ranks=hosts.ranks,
        python=python,
        image=image,
        mounts=mounts,
        env=env,
        error_file=error_file,
    )
    parts.check("train", hosts, host, config, script_args, run_dir=run_dir)
    return parts.job(name, "train", argv, hosts, host, options, rdzv_port=rdzv_port, max_retries=max_retries)


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
    parts = _from_launch("appdef")
    hosts = parts.Hosts.parse(j)
    argv = [script, "preprocess", *(["--config", config] if config else []), *script_args]
    host = parts.Host.of(h, cpu, 0, memMB, ranks=hosts.ranks, python=python, image=image, mounts=mounts, env=env)
    parts.check("preprocess", hosts, host, config or "", script_args)
    restarts = ["--max-restarts", "0"]
    return parts.job(name, "preprocess", argv, hosts, host, restarts, rdzv_port=rdzv_port, max_retries=max_retries)


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
    parts = _from_launch("appdef")
    hosts = parts.Hosts.parse(j)
    argv = [script, "benchmark", "--config", config, *script_args]
    host = parts.Host.of(
        h,
        cpu,
        gpu if gpu >= 0 else hosts.ranks,
        memMB,
        ranks=hosts.ranks,
        python=python,
        image=image,
        mounts=mounts,
        env=env,
        error_file=error_file,
    )
    parts.check("benchmark", hosts, host, config, script_args)
    options = ["--max-restarts", "0", *parts.numa_binding(numa)]
    return parts.job(
        name, "benchmark", argv, hosts, host, options, rdzv_port=rdzv_port, max_retries=max_retries, goes_on=False
    )


def evaluate(
    *script_args: str,
    checkpoint: str,
    j: str = "1",
    h: str = "",
    cpu: int = -1,
    gpu: int = -1,
    memMB: int = -1,
    image: str = "",
    mounts: Optional[List[str]] = None,
    env: Optional[Dict[str, str]] = None,
    max_retries: int = 0,
    numa: str = "",
    rdzv_port: int = 0,
    python: str = "",
    name: str = "dlrm-evaluate",
    script: str = "dlrm_main.py",
) -> specs.AppDef:
    """Score a checkpoint on the data of its run, or on others: the same figures on any number of ranks.

    Args:
        script_args: options of evaluate, after --, e.g. -- --split=validation --output=/shared/figures.json
        checkpoint: a checkpoint; or the folder of a run or of its checkpoints, for the newest good one
        j: hosts x ranks on each, e.g. 2x8; or ranks on one host, e.g. 8
        h: named resource of torchx for each host, instead of cpu, gpu and memMB
        cpu: cores of each host; 4 a rank if left out
        gpu: GPUs of each host; one a rank if left out, 0 to compute on CPU
        memMB: memory of each host in MB; 4096 a core if left out
        image: container image, for schedulers that use one
        mounts: of containers, e.g. type=volume,src=claim,dst=/data or type=bind,src=/shared,dst=/shared
        env: environment variables, e.g. NCCL_DEBUG=INFO,NCCL_IB_HCA=mlx5_0
        max_retries: how often the scheduler starts the job again after it failed
        numa: binds ranks to cores near their GPU: node, socket, exclusive or core-complex
        rdzv_port: port on the first host where the hosts meet; made from the job's id if left out
        python: interpreter on the hosts; the image's, .venv/bin/python or python3 if left out
        name: name of the job
        script: what each rank runs
    """
    parts = _from_launch("appdef")
    hosts = parts.Hosts.parse(j)
    gpus = gpu if gpu >= 0 else hosts.ranks
    host = parts.Host.of(h, cpu, gpus, memMB, ranks=hosts.ranks, python=python, image=image, mounts=mounts, env=env)
    words = [f"--path={checkpoint}", *script_args]
    parts.check("evaluate", hosts, host, "", words)
    options = ["--max-restarts", "0", *parts.numa_binding(numa)]
    argv = [script, "evaluate", *words]
    return parts.job(
        name, "evaluate", argv, hosts, host, options, rdzv_port=rdzv_port, max_retries=max_retries, goes_on=False
    )


def predict(
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
    name: str = "dlrm-predict",
    script: str = "dlrm_main.py",
) -> specs.AppDef:
    """Write the probabilities of all rows of files: the hosts share the rows among them, with the same result as one.

    All hosts must see the export, the input and the output. Started again after a failure, the job goes on where it was.

    Args:
        script_args: options of predict, after --, e.g. -- --export=e --input=raw --output=scores.parquet
        config: YAML file with options
        j: hosts x processes on each, e.g. 4x1; one process uses all cores of its host by threads (--threads)
        h: named resource of torchx for each host, instead of cpu and memMB
        cpu: cores of each host; 4 a process if left out
        memMB: memory of each host in MB, for the export's tables in each process; 4096 a core if left out
        image: container image, for schedulers that use one
        mounts: of containers, e.g. type=volume,src=claim,dst=/data or type=bind,src=/shared,dst=/shared
        env: environment variables of the job
        max_retries: how often the scheduler starts the job again after it failed; mistakes of the user are not tried again
        rdzv_port: port on the first host where the hosts meet; made from the job's id if left out
        python: interpreter on the hosts; the image's, .venv/bin/python or python3 if left out
        name: name of the job
        script: what each process runs
    """
    parts = _from_launch("appdef")
    hosts = parts.Hosts.parse(j)
    argv = [script, "predict", *(["--config", config] if config else []), *script_args]
    host = parts.Host.of(h, cpu, 0, memMB, ranks=hosts.ranks, python=python, image=image, mounts=mounts, env=env)
    parts.check("predict", hosts, host, config or "", script_args)
    restarts = ["--max-restarts", "0"]
    return parts.job(name, "predict", argv, hosts, host, restarts, rdzv_port=rdzv_port, max_retries=max_retries)


def serve(
    *script_args: str,
    models: str,
    port: int = 8000,
    h: str = "",
    cpu: int = -1,
    memMB: int = -1,
    image: str = "",
    mounts: Optional[List[str]] = None,
    env: Optional[Dict[str, str]] = None,
    max_retries: int = 3,
    python: str = "",
    name: str = "dlrm-serve",
    script: str = "dlrm_main.py",
) -> specs.AppDef:
    """Serve exports over HTTP on one host, to all who reach its port: there is no authentication and no TLS.

    Args:
        script_args: further options of serve, after --, e.g. -- --max_wait_ms 2
        models: exports and their names in addresses, e.g. ads=/shared/exports/ads,feed=/shared/exports/feed
        port: port to listen on
        h: named resource of torchx, instead of cpu and memMB
        cpu: cores; 4 if left out
        memMB: memory in MB, for the tables of all exports; 4096 a core if left out
        image: container image, for schedulers that use one
        mounts: of containers, e.g. type=volume,src=claim,dst=/data or type=bind,src=/shared,dst=/shared
        env: environment variables of the server
        max_retries: how often the scheduler starts the server again after it failed
        python: interpreter on the host; the image's, .venv/bin/python or python3 if left out
        name: name of the job
        script: what is run
    """
    parts = _from_launch("appdef")
    words = [f"--models={models}", "--host", "0.0.0.0", "--port", str(port), *script_args]
    host = parts.Host.of(h, cpu, 0, memMB, ranks=1, python=python, image=image, mounts=mounts, env=env)
    parts.check("serve", parts.Hosts(1, 1, 1), host, "", words)
    return parts.service(name, "serve", [script, "serve", *words], host, port=port, max_retries=max_retries)


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
    parts = _from_launch("appdef")
    hosts = parts.Hosts(1, 1, 1)
    host = parts.Host.of(h, cpu, 0, memMB, ranks=1, python=python, image=image, mounts=mounts, env=env)
    parts.check("command", hosts, host, "", script_args)
    argv = [script, *script_args]
    restarts = ["--max-restarts", "0"]
    return parts.job(name, "command", argv, hosts, host, restarts, rdzv_port=0, max_retries=max_retries, goes_on=False)


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
