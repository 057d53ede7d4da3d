"""What becomes of trainings in a real Slurm of two hosts when something happens to them.

    sudo .venv/bin/python -m scripts.slurm_cases [--cases requeue time_limit ...] [--save]

Every case submits a training through torchx with one rank on each host, does something to it, and compares the whole final
state (weights, optimizers) with that of a training to which nothing was done, bit by bit. None has an option for being
started again. What ends a job for good is tried as well: a cancel, a mistake of the user. It needs root and Debian's
packages of Slurm (tests/support/slurm.py); ``--save`` writes benchmarks/results/slurm.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tests.support.elastic_job import ROOT, committed_steps, differing_tensors, saved_tensors
from tests.support.slurm import SlurmCluster, missing
from tests.support.slurm_job import Submitted, Submitter, training_options

RESULTS = ROOT / "benchmarks" / "results" / "slurm.json"
SAVED = 100  # a job is let alone until so many steps are saved
Case = Callable[[Submitter], Submitted]


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        case: its name; what: was done.
        state: of the job, as Slurm names it; starts: how often its ranks were started.
        equal: whether the final state is that of the uninterrupted training; None where the training has none.
        duration_s: of all of it.
        problem: what was not as it should be.
    """

    case: str
    what: str
    state: str = ""
    starts: int = 0
    equal: bool | None = None
    duration_s: float = 0.0
    problem: str = ""


def requeue(submitter: Submitter) -> Submitted:
    """scontrol requeue"""
    job = _under_way(submitter, "requeue")
    submitter.cluster.run("scontrol", "requeue", job.job)
    return job


def terminated(submitter: Submitter) -> Submitted:
    """scancel --signal=TERM"""
    job = _under_way(submitter, "terminated")
    submitter.cluster.run("scancel", "--signal=TERM", job.job)
    return job


def asked(submitter: Submitter) -> Submitted:
    """scancel --signal=USR1, which Slurm sends before the end of a job's time as well"""
    job = _under_way(submitter, "asked")
    submitter.cluster.run("scancel", "--signal=USR1", job.job)
    return job


def launcher_killed(submitter: Submitter) -> Submitted:
    """kill -9 of the launcher on the second host"""
    job = _under_way(submitter, "launcher_killed")
    os.kill(job.launcher_on("n2"), signal.SIGKILL)
    return job


def rank_killed(submitter: Submitter) -> Submitted:
    """kill -9 of the rank on the second host; the ranks are started again within the job"""
    job = _under_way(submitter, "rank_killed")
    os.kill(job.rank_on("n2"), signal.SIGKILL)
    return job


def host_down(submitter: Submitter) -> Submitted:
    """the second host dies, and comes back half a minute later"""
    job = _under_way(submitter, "host_down")
    submitter.cluster.down("n2")
    time.sleep(30)
    submitter.cluster.up("n2")
    return job


def first_host_down(submitter: Submitter) -> Submitted:
    """the first host dies, and comes back half a minute later"""
    job = _under_way(submitter, "first_host_down")
    submitter.cluster.down("n1")
    time.sleep(30)
    submitter.cluster.up("n1")
    return job


def time_limit(submitter: Submitter) -> Submitted:
    """a time limit of two minutes, with the signal 60 s before it"""
    paced = ["--script", "scripts/paced_training.py", "--env", "DLRM_PACE_S=0.1"]  # a minute at least
    return submitter.submit("time_limit", training_options(), more=paced, cfg="time=2", SBATCH_SIGNAL="USR1@60")


def preempted(submitter: Submitter) -> Submitted:
    """a job of a partition with a higher priority takes both hosts"""
    job = _under_way(submitter, "preempted")
    urgent = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null"]
    submitter.cluster.run("sbatch", *urgent, "--wrap=sleep 5")
    return job


def two_jobs(submitter: Submitter) -> Submitted:
    """two jobs at once on the same two hosts"""
    one, other = (submitter.submit(f"two_jobs_{name}", training_options()) for name in "ab")
    if differing_tensors(one.tensors(), other.tensors()):
        raise RuntimeError("the two jobs differ")
    if set(one.hosts) != set(other.hosts):
        raise RuntimeError(f"one ran on {one.hosts}, the other on {other.hosts}")
    return one


def cancelled(submitter: Submitter) -> Submitted:
    """scancel"""
    job = _under_way(submitter, "cancelled")
    saved = job.await_saved(SAVED)
    submitter.cluster.run("scancel", job.job)
    job.await_end()
    job.await_saved(saved + 1)
    return job


def mistake(submitter: Submitter) -> Submitted:
    """a mistake of the user that the rank on the second host finds"""
    program = ["--script", "tests/launch/rank_program.py", "--env", "STAND_IN_MODE=user"]
    job = submitter.submit("mistake", training_options(), more=program)
    job.await_end()
    if any(job.printed(host).count("'x' is not an integer") != 1 for host in (0, 1)):
        raise RuntimeError(f"not every host has said it once\n{job.output()}")
    return job


GO_ON: list[Case] = [
    requeue,
    terminated,
    asked,
    launcher_killed,
    rank_killed,
    host_down,
    first_host_down,
    preempted,
    time_limit,
]
END: dict[Case, str] = {cancelled: "CANCELLED", mistake: "FAILED"}
CASES = {case.__name__: case for case in (*GO_ON, two_jobs, *END)}


def _under_way(submitter: Submitter, name: str) -> Submitted:
    job = submitter.submit(name, training_options())
    job.await_saved(SAVED)
    return job


def try_case(name: str, submitter: Submitter, reference: dict[str, torch.Tensor]) -> Outcome:
    """Do what a case does, and see what becomes of it."""
    case, began_s = CASES[name], time.monotonic()
    outcome = Outcome(name, str(case.__doc__))
    try:
        job = case(submitter)
        outcome.state, outcome.starts = job.await_end(), job.starts()
        outcome.duration_s = round(time.monotonic() - began_s, 1)
        if case in END:
            outcome.problem = "" if (outcome.state, job.requeues()) == (END[case], 0) else job.output()
            return outcome
        outcome.equal = not (names := differing_tensors(job.tensors(), reference))
        if names:
            outcome.problem = f"differ: {', '.join(names)}"
        elif case in GO_ON and outcome.starts < 2:
            outcome.problem = "nothing was started again: it came too late"
        elif (told := job.status())["state"] != "finished" or _starts(told) != outcome.starts:
            outcome.problem = f"status says {told}"
    except (RuntimeError, TimeoutError) as error:
        outcome.problem = str(error)
    return outcome


def _starts(status: dict[str, Any]) -> int:
    return sum(len(attempt["starts"]) for attempt in status["attempts"])


def two_local_ranks(folder: Path, options: list[str]) -> dict[str, torch.Tensor]:
    """The final state of a training with two ranks under one launcher, without Slurm."""
    launcher = [sys.executable, "launch/elastic.py", "--standalone", "--local-addr", "localhost"]
    words = [*launcher, "--nproc-per-node", "2", "dlrm_main.py", "train", *options, "--run.dir", str(folder)]
    done = subprocess.run([*words, "--run.name", "local"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    checkpoints = folder / "local" / "checkpoints"
    return saved_tensors(checkpoints / f"step_{committed_steps(checkpoints)[-1]:08d}")


def main() -> int:
    """Try the cases one after the other and print what became of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    given = parser.parse_args()
    if why := missing():
        print(why)
        return 2
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="slurm_cases_") as folder, SlurmCluster(Path(folder) / "slurm") as cluster:
        submitter = Submitter(cluster, Path(folder))
        reference = submitter.submit("reference", training_options()).tensors()
        local = two_local_ranks(Path(folder), training_options())
        equal = not differing_tensors(reference, local)
        print(f"two hosts and two ranks of one host: {'the same' if equal else 'NOT the same'}", flush=True)
        for name in given.cases:
            outcome = try_case(name, submitter, reference)
            outcomes.append(outcome)
            verdict = "equal to the bit" if outcome.equal else "as it should be"
            verdict = outcome.problem or f"{verdict} after {outcome.starts} start(s)"
            print(f"{name} ({outcome.what}): {outcome.state}, {verdict}; {outcome.duration_s:.0f} s", flush=True)
    if given.save:
        with suppress(FileExistsError):
            RESULTS.parent.mkdir()
        found = {"local_equal": equal, "cases": [asdict(outcome) for outcome in outcomes]}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return int(not equal or any(outcome.problem for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
