"""What the scheduler of a cluster tells the launcher on this host, and what the launcher asks of it.

Slurm answers questions (``scontrol``). Kubernetes and AWS Batch say nothing to a container: what they do by default is
taken, and ``DLRM_GRACE_S`` says what they were told. It needs the standard library only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

GRACE_VARIABLE = "DLRM_GRACE_S"  # seconds between SIGTERM and SIGKILL, where the scheduler cannot be asked
_GRACE_S = {"KUBERNETES_SERVICE_HOST": 30.0, "AWS_BATCH_JOB_ID": 30.0}  # as these do it unless they are told otherwise
_SLURM_GRACE_S = 30.0  # KillWait where it is not set
_LOCAL_GRACE_S = 10.0  # of torchx's local schedulers
_MARGIN_S = 2.0  # for this process to end after its ranks
_FEWEST_S = 1.0
_ANSWER_S = 10.0  # a controller that is busy may take some seconds
_PORTS = range(20000, 32000)  # below those that Linux gives to clients


def in_slurm() -> bool:
    """Whether Slurm has started this process."""
    return "SLURM_JOB_ID" in os.environ


def shutdown_s() -> int:
    """Seconds that ranks get to end after SIGTERM, so that none is killed by the scheduler while it saves.

    Raises:
        ValueError: what the environment says is no number.
    """
    grace_s = _grace_s()
    return int(max(_FEWEST_S, grace_s - _MARGIN_S))


def _grace_s() -> float:
    if given := os.environ.get(GRACE_VARIABLE):
        try:
            return float(given)
        except ValueError:
            raise ValueError(f"{GRACE_VARIABLE} ({given}) must be a number of seconds") from None
    if in_slurm():
        found = re.search(r"^KillWait\s*=\s*(\d+)", _answer("scontrol", "show", "config"), re.MULTILINE)
        return float(found[1]) if found else _SLURM_GRACE_S
    return next((seconds for name, seconds in _GRACE_S.items() if name in os.environ), _LOCAL_GRACE_S)


def cores() -> int:
    """Cores of this host that the job was granted: by the scheduler, by the container's quota, by affinity."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):  # the latter in a heterogeneous job
        if (granted := os.environ.get(name, "")).isdecimal():
            limits.append(int(granted))
            break
    if quota := _cpu_quota():
        limits.append(quota)
    return max(1, min(limits))


def _cpu_quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Whole cores that a container may use; 0 if there is no limit."""
    try:
        quota, period = path.read_text().split()
        return 0 if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return 0


def port_of(job: str) -> int:
    """Where the hosts of a job meet on the first one: jobs that share it have other ports.

    Jobs that a scheduler numbers one after the other never have the same; others seldom.
    """
    number = re.search(r"\d+$", job)
    return _PORTS[(int(number[0]) if number else zlib.crc32(job.encode())) % len(_PORTS)]


def nobody_watches() -> bool:
    """Whether what looks like a terminal is none: ``srun --unbuffered`` gives one to its tasks, but no keyboard."""
    return "SLURM_STEP_ID" in os.environ and not sys.stdin.isatty()


def can_requeue() -> bool:
    """Whether Slurm would start this job again when it is asked to: a batch job with ``--requeue``."""
    if not in_slurm():
        return False
    job = _answer("scontrol", "--oneliner", "show", "job", os.environ["SLURM_JOB_ID"])
    return re.search(r"\bRequeue=1\b", job) is not None and re.search(r"\bBatchFlag=[1-9]", job) is not None


def requeue() -> str:
    """Have Slurm start this job again, which ends what runs of it; the first host asks. What went wrong, or nothing."""
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return ""
    return _ask("scontrol", "requeue", os.environ["SLURM_JOB_ID"])


def never_again() -> str:
    """Have Slurm not start this job again, whoever asks. What went wrong, or nothing."""
    return _ask("scontrol", "update", f"JobId={os.environ['SLURM_JOB_ID']}", "Requeue=0") if in_slurm() else ""


def _answer(*command: str) -> str:
    """What a command prints; nothing if it fails."""
    try:
        return _run(command).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _ask(*command: str) -> str:
    try:
        done = _run(command)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{' '.join(command)}: {error}"
    return f"{' '.join(command)}: {done.stderr.strip()}" if done.returncode else ""


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=_ANSWER_S, check=False, stdin=subprocess.DEVNULL
    )
