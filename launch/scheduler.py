"""What the scheduler of a cluster tells the launcher on this host, and what the launcher asks of it.

Slurm answers questions (``scontrol``). Kubernetes and AWS Batch say nothing to a container: what they do by default is
taken, and ``DLRM_GRACE_S`` says what they were told. It needs the standard library only.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GRACE_VARIABLE = "DLRM_GRACE_S"  # seconds between SIGTERM and SIGKILL, where the scheduler cannot be asked
REQUEUE_VARIABLE = "DLRM_REQUEUE"  # 1: a job that Slurm starts again goes on where it was
LOCAL_VARIABLE = "DLRM_CLIENT"  # set for torchx's local schedulers, by components/dlrm.py
SHORT_JOB_S = 900.0  # of a job with less time the signal before its end may be all of it
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
    if not math.isfinite(grace_s):
        raise ValueError(f"{GRACE_VARIABLE} must be a number of seconds that ends")
    return int(max(_FEWEST_S, grace_s - _MARGIN_S))


def _grace_s() -> float:
    if given := os.environ.get(GRACE_VARIABLE):
        try:
            return float(given)
        except ValueError:
            raise ValueError(f"{GRACE_VARIABLE} ({given}) must be a number of seconds") from None
    if LOCAL_VARIABLE in os.environ:  # in an allocation or a pod as well
        return _LOCAL_GRACE_S
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


@dataclass(frozen=True)
class SlurmJob:
    """What Slurm says of this job when its launcher starts.

    Attributes:
        name: by which Slurm knows it; of a job array the task alone.
        requeues: whether Slurm is to start it again and would: a batch job with ``--requeue``, started by the components or
            launch/slurm.sbatch, which have it go on where it was. On many clusters every batch job may be requeued.
        time_limit_s: infinite if there is none; ends_s: when it is over, by the monotonic clock.
    """

    name: str
    requeues: bool
    time_limit_s: float = math.inf
    ends_s: float = math.inf

    @classmethod
    def ask(cls) -> SlurmJob | None:
        """None outside of Slurm. Where Slurm does not answer, in a container say, it cannot be asked to requeue either."""
        if not in_slurm():
            return None
        array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
        name = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
        told = _answer("scontrol", "--oneliner", "show", "job", name)
        found = dict(word.split("=", 1) for word in told.partition("\n")[0].split() if "=" in word)
        wanted = os.environ.get(REQUEUE_VARIABLE) == "1"
        requeues = wanted and found.get("Requeue") == "1" and found.get("BatchFlag", "0") != "0"
        limit_s, ran_s = _seconds(found.get("TimeLimit", "")), _seconds(found.get("RunTime", ""))
        return cls(name, requeues, limit_s, time.monotonic() + limit_s - (0.0 if ran_s == math.inf else ran_s))

    def stops_in_s(self) -> float | None:
        """After SIGUSR1, in how many seconds ranks are to save and stop, so that Slurm starts the job again; None: never.

        At once. But the signal that Slurm sends a fixed time before the end comes early to a job with little time: that
        may use four fifths of it.
        """
        if not self.requeues:
            return None
        if self.time_limit_s > SHORT_JOB_S:
            return 0.0
        return max(0.0, self.ends_s - time.monotonic() - self.time_limit_s / 5)

    def is_over_time(self) -> bool:
        """Whether Slurm ends the job because its time is up."""
        return "Reason=TimeLimit" in _answer("scontrol", "--oneliner", "show", "job", self.name)

    def requeue(self) -> str:
        """Have Slurm start this job again, which ends what runs of it; the first host asks. What went wrong, or nothing."""
        if os.environ.get("SLURM_PROCID", "0") != "0":
            return ""
        if "JobState=CANCELLED" in _answer("scontrol", "--oneliner", "show", "job", self.name):
            return ""
        return _ask("scontrol", "requeue", self.name)

    def never_again(self) -> str:
        """Have Slurm not start this job again, whoever asks. What went wrong, or nothing."""
        return _ask("scontrol", "update", f"JobId={self.name}", "Requeue=0") if self.requeues else ""


def attempts_before() -> int:
    """How often Slurm has started this job before."""
    count = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(count) if count.isdecimal() else 0


def _seconds(duration: str) -> float:
    """Of Slurm's [days-]hours:minutes:seconds; infinite for anything else, UNLIMITED too."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", duration)
    if match is None:
        return math.inf
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


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
