"""What torchx 0.7.0 lacks and what can be added to it, in the process that submits, where it leaves a place for that.

* Kubernetes: torchx has Volcano start the whole job again after a pod has failed, whatever its exit code. Volcano looks at
  the policies of a task in their order; one that ends the job after exit code 2 (a mistake that the user has to mend)
  goes before torchx's own.
* AWS Batch: as on Kubernetes; a rule for exit code 2 joins torchx's own for exit code 0.
* Slurm: after submitting, torchx asks sacct for the job's state, and fails on a cluster without accounting or when it does
  not know the state (``CANCELLED by 0``), although the job is queued. Then squeue is asked. ``torchx status`` and
  ``torchx list``, later, know nothing of this.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import wraps
from typing import Any

USER_ERROR_EXIT_CODE = 2  # as in launch/elastic.py
_ANSWER_S = 30
_FILLED = "filled_by_dlrm"  # marks a method, so that it is replaced once
# sacct fails or is not there; its answer is none that torchx 0.7.0 (AssertionError) or a nightly (KeyError) reads.
_NOT_UNDERSTOOD = (subprocess.CalledProcessError, FileNotFoundError, AssertionError, KeyError)
_ENDS_THE_JOB = {"exitCode": USER_ERROR_EXIT_CODE, "action": "TerminateJob"}


def fill(scheduler: str) -> None:
    """Add what torchx lacks for a scheduler; once or more often."""
    if scheduler == "kubernetes":
        _end_the_job_after_a_mistake()
    elif scheduler == "aws_batch":
        _do_not_try_a_mistake_again()
    elif scheduler == "slurm":
        _ask_squeue_where_sacct_fails()


def _end_the_job_after_a_mistake() -> None:
    from torchx.schedulers import kubernetes_scheduler
    from torchx.specs import RetryPolicy

    policies: Any = kubernetes_scheduler.RETRY_POLICIES
    own = [policy for policy in policies[RetryPolicy.APPLICATION] if policy != _ENDS_THE_JOB]
    policies[RetryPolicy.APPLICATION] = [_ENDS_THE_JOB, *own]


def _do_not_try_a_mistake_again() -> None:
    from torchx.schedulers.aws_batch_scheduler import AWSBatchScheduler

    render: Callable[..., Any] = AWSBatchScheduler._submit_dryrun
    if getattr(render, _FILLED, False):
        return

    @wraps(render)
    def render_with_rule(self: Any, app: Any, cfg: Any) -> Any:
        info = render(self, app, cfg)
        rules = info.request.job_def["retryStrategy"]["evaluateOnExit"]
        rules.append({"onExitCode": str(USER_ERROR_EXIT_CODE), "action": "EXIT"})
        return info

    setattr(render_with_rule, _FILLED, True)
    AWSBatchScheduler._submit_dryrun = render_with_rule


def _ask_squeue_where_sacct_fails() -> None:
    from torchx.schedulers.slurm_scheduler import SlurmScheduler

    describe: Callable[..., Any] = SlurmScheduler.describe
    if getattr(describe, _FILLED, False):
        return

    @wraps(describe)
    def describe_without_accounting(self: Any, app_id: str) -> Any:
        try:
            return describe(self, app_id)
        except _NOT_UNDERSTOOD:
            return state_of(app_id)

    setattr(describe_without_accounting, _FILLED, True)
    SlurmScheduler.describe = describe_without_accounting


def state_of(job: str) -> Any:
    """What torchx calls the description of a job, by squeue; None if Slurm has forgotten it."""
    from torchx.schedulers.api import DescribeAppResponse
    from torchx.schedulers.slurm_scheduler import SLURM_STATES
    from torchx.specs import AppState

    asked = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=_ANSWER_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    states = answer.stdout.split()
    if answer.returncode != 0 or not states:
        return None
    return DescribeAppResponse(app_id=job, state=SLURM_STATES.get(states[0], AppState.UNKNOWN), msg=states[0])
