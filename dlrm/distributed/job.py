"""The scheduler's job that this process is part of, by which a job that was started again knows what it has done before.

A *job* is what a user submits. The scheduler may start it several times: after a requeue, a preemption or a lost host. Its
id stays the same over these *attempts*.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

# The first that is set counts. torchx's is the same on every host; Slurm numbers the parts of a heterogeneous job.
_IDS = ("DLRM_JOB_ID", "TORCHX_JOB_ID", "SLURM_JOB_ID", "AWS_BATCH_JOB_ID")
_ATTEMPTS = ("DLRM_JOB_ATTEMPT", "SLURM_RESTART_COUNT", "AWS_BATCH_JOB_ATTEMPT")
_CLUSTER = "SLURM_CLUSTER_NAME"  # several clusters may share a file system, and number their jobs alike

WHERE_IDS_ARE = ", ".join(_IDS)


@dataclass(frozen=True)
class Job:
    """A job of a scheduler.

    Attributes:
        id: of the job, the same over all attempts; empty if no scheduler has started this process.
        attempt: which one this is, as the scheduler counts; "0" if it has not said.
    """

    id: str = ""
    attempt: str = "0"


def this_job() -> Job:
    """The job that this process is part of."""
    found = next((os.environ[name] for name in _IDS if os.environ.get(name)), "")
    cluster = os.environ.get(_CLUSTER, "")
    attempt = next((os.environ[name] for name in _ATTEMPTS if os.environ.get(name)), "0")
    return Job(f"{found}@{cluster}" if found and cluster else found, attempt)
