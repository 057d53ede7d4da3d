"""What the launcher asks of a scheduler, with a stand-in for Slurm's command; tests/launch/test_slurm.py has a real one."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.launch.launching import ELASTIC, HANG_S, finished, ranks_up, started

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "launch"))
import scheduler  # noqa: E402

VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_PROCID",
    "SLURM_STEP_ID",
    "SLURM_CPUS_PER_TASK",
    "SLURM_CPUS_ON_NODE",
    "KUBERNETES_SERVICE_HOST",
    "AWS_BATCH_JOB_ID",
    "DLRM_GRACE_S",
    "DLRM_CLIENT",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
)


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(scheduler, "_cpu_quota", lambda: 0)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Have this be job 12 of a Slurm, whose scontrol ``answers`` and is ``asked``."""

    class Slurm:
        asked_file = tmp_path / "asked"

        def answers(self, says="", code=0):
            lines = ["#!/bin/sh", f'echo "$@" >> {self.asked_file}', f"cat <<'END'\n{says}\nEND"]
            (tmp_path / "scontrol").write_text("\n".join([*lines, "echo refused >&2", f"exit {code}\n"]))
            (tmp_path / "scontrol").chmod(0o755)

        @property
        def asked(self):
            return self.asked_file.read_text().splitlines() if self.asked_file.exists() else []

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("DLRM_REQUEUE", "1")
    return Slurm()


def test_ranks_get_as_long_to_end_as_the_scheduler_gives_the_job_but_for_two_seconds(monkeypatch, slurm):
    slurm.answers("Configuration data\nKillWait                = 45 sec\nOther = 1")
    assert scheduler.shutdown_s() == 43
    slurm.answers(code=1)
    assert scheduler.shutdown_s() == 28  # Slurm's default
    monkeypatch.setenv("DLRM_GRACE_S", "120")
    assert scheduler.shutdown_s() == 118
    monkeypatch.setenv("DLRM_GRACE_S", "1")
    assert scheduler.shutdown_s() == 1


@pytest.mark.parametrize(
    ("variable", "seconds"), [("KUBERNETES_SERVICE_HOST", 28), ("AWS_BATCH_JOB_ID", 28), ("HOME", 8)]
)
def test_where_nobody_can_be_asked_the_schedulers_default_is_taken(monkeypatch, variable, seconds):
    monkeypatch.setenv(variable, "x")
    assert scheduler.shutdown_s() == seconds


def test_a_grace_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("DLRM_GRACE_S", "long")
    with pytest.raises(ValueError, match=r"^DLRM_GRACE_S \(long\) must be a number of seconds$"):
        scheduler.shutdown_s()
    monkeypatch.setenv("DLRM_GRACE_S", "inf")
    with pytest.raises(ValueError, match="seconds that ends"):
        scheduler.shutdown_s()


def test_a_job_that_ends_with_its_client_gets_as_long_as_torchx_gives_it_in_an_allocation_too(monkeypatch, slurm):
    monkeypatch.setenv("DLRM_CLIENT", "1")
    assert scheduler.shutdown_s() == 8


def test_cores_are_those_that_were_granted(monkeypatch):
    monkeypatch.setattr(scheduler.os, "sched_getaffinity", lambda pid: set(range(16)))
    assert scheduler.cores() == 16
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "12")  # as in a heterogeneous job, where the other is not set
    assert scheduler.cores() == 12
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    assert scheduler.cores() == 8
    monkeypatch.setattr(scheduler, "_cpu_quota", lambda: 3)
    assert scheduler.cores() == 3


@pytest.mark.parametrize(("text", "cores"), [("max 100000", 0), ("250000 100000", 2), ("5000 100000", 1), ("", 0)])
def test_the_quota_of_a_container_counts_in_whole_cores(tmp_path, text, cores, monkeypatch):
    monkeypatch.undo()
    (tmp_path / "cpu.max").write_text(text)
    assert scheduler._cpu_quota(tmp_path / "cpu.max") == cores
    assert scheduler._cpu_quota(tmp_path / "absent") == 0


def test_jobs_that_are_numbered_one_after_the_other_meet_on_different_ports():
    ports = {scheduler.port_of(str(job)) for job in range(1_000_000, 1_012_000)}
    assert len(ports) == 12_000
    assert min(ports) >= 1024
    assert max(ports) < 32768  # where Linux begins to give ports to clients
    assert scheduler.port_of("kubernetes://a/b-x7f") == scheduler.port_of("kubernetes://a/b-x7f")


@pytest.mark.parametrize(
    ("shown", "can"),
    [
        ("JobId=12 JobName=a Requeue=1 Restarts=0 BatchFlag=1 Reboot=0", True),
        ("JobId=12 JobName=a Requeue=0 Restarts=0 BatchFlag=1 Reboot=0", False),
        ("JobId=12 JobName=a Requeue=1 Restarts=0 BatchFlag=0 Reboot=0", False),  # salloc
        ("", False),
    ],
)
def test_only_a_batch_job_that_may_be_requeued_can_be(slurm, shown, can):
    slurm.answers(shown)
    assert scheduler.SlurmJob.ask().requeues == can


def test_a_script_of_a_user_s_own_is_not_requeued_although_the_cluster_would(slurm, monkeypatch):
    """It may begin at the first sample each time."""
    monkeypatch.delenv("DLRM_REQUEUE")
    slurm.answers(REQUEUES)
    assert not scheduler.SlurmJob.ask().requeues


def test_outside_of_slurm_there_is_no_job(monkeypatch):
    assert scheduler.SlurmJob.ask() is None


def test_where_slurm_cannot_be_asked_nothing_is_asked_of_it(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("PATH", str(tmp_path))  # in a container
    job = scheduler.SlurmJob.ask()
    assert (job.requeues, job.stops_in_s(), job.never_again()) == (False, None, "")


@pytest.mark.parametrize(
    ("limit", "ran", "stops_in_s"),
    [
        ("UNLIMITED", "00:10:00", 0.0),
        ("1-00:00:00", "23:55:00", 0.0),
        ("00:05:00", "00:00:10", 230.0),  # the signal came at once: a fifth of its time is left to save
        ("00:02:00", "00:01:50", 0.0),
    ],
)
def test_a_job_with_little_time_may_use_four_fifths_of_it(slurm, limit, ran, stops_in_s):
    slurm.answers(f"JobId=12 Requeue=1 BatchFlag=1 RunTime={ran} TimeLimit={limit}\nJobId=13 Requeue=0 BatchFlag=1")
    assert scheduler.SlurmJob.ask().stops_in_s() == pytest.approx(stops_in_s, abs=5.0)


REQUEUES = "JobId=12 Requeue=1 BatchFlag=1 RunTime=00:00:01 TimeLimit=UNLIMITED JobState=RUNNING"


def test_the_first_host_alone_asks_for_a_requeue(slurm, monkeypatch):
    slurm.answers(REQUEUES)
    job = scheduler.SlurmJob.ask()
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert job.requeue() == ""
    assert slurm.asked[1:] == []
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert job.requeue() == ""
    assert slurm.asked[-1] == "requeue 12"


def test_a_job_that_was_cancelled_is_not_requeued(slurm):
    slurm.answers(REQUEUES.replace("RUNNING", "CANCELLED"))
    assert scheduler.SlurmJob.ask().requeue() == ""
    assert not any(line.startswith("requeue") for line in slurm.asked)


def test_of_a_job_array_only_the_task_is_meant(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    slurm.answers(REQUEUES)
    scheduler.SlurmJob.ask().never_again()
    assert slurm.asked[-1] == "update JobId=12_3 Requeue=0"


def test_what_slurm_refuses_is_told_in_its_words(slurm):
    slurm.answers(code=1)
    assert scheduler.SlurmJob("12", requeues=True).requeue() == "scontrol requeue 12: refused"


def test_a_terminal_without_a_keyboard_is_watched_by_nobody(monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert not scheduler.nobody_watches()  # a pipe into a command at a person's terminal
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert scheduler.nobody_watches()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert not scheduler.nobody_watches()  # srun --pty


def test_sigusr1_in_a_job_that_can_be_requeued_saves_stops_and_requeues(slurm):
    slurm.answers(REQUEUES)
    with started(ELASTIC[0], "--max-restarts", "3", *ELASTIC[1:], "saving") as job:
        ranks_up(job, 2, "ready")
        os.kill(job.pid, signal.SIGUSR1)
        _, err = job.communicate(timeout=HANG_S)
    assert job.returncode == 128 + signal.SIGTERM  # and no rank was started again
    assert "SIGUSR1 said so: Slurm starts it again" in err
    assert slurm.asked == ["--oneliner show job 12", "show config", "--oneliner show job 12", "requeue 12"]


@pytest.mark.slow
def test_a_mistake_of_the_user_in_slurm_keeps_the_job_from_being_started_again(slurm):
    slurm.answers(REQUEUES)
    job = finished(*ELASTIC, "alike")
    assert job.returncode == 2
    assert slurm.asked == ["--oneliner show job 12", "show config", "update JobId=12 Requeue=0"]


@pytest.mark.slow
@pytest.mark.parametrize(("reason", "requeues"), [("TimeLimit", True), ("None", False)])
def test_sigterm_at_the_end_of_the_time_is_followed_by_a_requeue_and_no_other(slurm, reason, requeues):
    slurm.answers(f"{REQUEUES} Reason={reason}")
    with started(ELASTIC[0], "--max-restarts", "3", *ELASTIC[1:], "saving") as job:
        ranks_up(job, 2, "ready")
        os.kill(job.pid, signal.SIGTERM)
        job.communicate(timeout=HANG_S)
    assert job.returncode == 128 + signal.SIGTERM
    assert ("requeue 12" in slurm.asked) == requeues
