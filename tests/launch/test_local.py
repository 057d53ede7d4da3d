import os
import re
import signal
import subprocess

import psutil
import pytest

from tests.launch.launching import HANG_S, LOCAL, ROOT, all_end, finished, interrupt, ranks_up, started


def test_through_torchx_a_user_error_is_one_line_and_exit_code_2():
    job = finished(*LOCAL, STAND_IN_MODE="alike")
    assert job.returncode == 2
    assert job.stderr == "day_0.tsv, row 3, column I1: 'x' is not an integer\n"


@pytest.mark.slow
def test_through_torchx_a_bug_ends_with_the_line_of_the_rank():
    job = finished(*LOCAL, STAND_IN_MODE="bug")
    assert job.returncode == 1
    assert job.stderr.splitlines()[-1] == "rank 1 failed: ValueError: boom"
    assert sorted(line.split()[1] for line in job.stdout.splitlines()) == ["0", "1"]


def test_through_torchx_ctrl_c_is_one_line_and_exit_code_130():
    with started(*LOCAL, STAND_IN_MODE="wait") as job:
        pids = ranks_up(job, 2)
        interrupt(job)
        _, err = job.communicate(timeout=HANG_S)
        assert (job.returncode, err) == (130, "interrupted\n")
        assert all_end(pids)


@pytest.mark.slow
def test_ranks_do_not_outlive_a_killed_torchx_client():
    with started(*LOCAL, STAND_IN_MODE="wait") as job:
        pids = ranks_up(job, 2)
        os.kill(job.pid, signal.SIGKILL)
        assert all_end(pids)


@pytest.mark.slow
def test_a_launcher_that_was_killed_is_said_to_be():
    with started(*LOCAL, STAND_IN_MODE="wait") as job:
        pids = ranks_up(job, 2)
        os.kill(psutil.Process(pids[0]).ppid(), signal.SIGKILL)
        _, err = job.communicate(timeout=HANG_S)
        line = "the job ended without saying why: its launcher (launch/elastic.py) was killed\n"
        assert (job.returncode, err) == (1, line)
        assert all_end(pids)


@pytest.mark.slow
def test_a_launcher_that_was_stopped_says_by_what():
    with started(*LOCAL, STAND_IN_MODE="wait") as job:
        pids = ranks_up(job, 2)
        os.kill(psutil.Process(pids[0]).ppid(), signal.SIGHUP)
        _, err = job.communicate(timeout=HANG_S)
        assert (job.returncode, err) == (128 + signal.SIGHUP, "stopped by SIGHUP\n")
        assert all_end(pids)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_with_one_line():
    with started(*LOCAL, STAND_IN_MODE="stubborn", TORCH_ELASTIC_SHUTDOWN_TIMEOUT="600") as job:
        pids = ranks_up(job, 2, "ready")
        interrupt(job)
        ranks_up(job, 2, "told")
        interrupt(job)
        _, err = job.communicate(timeout=HANG_S)
        assert (job.returncode, err) == (130, "interrupted\n")
        assert all_end(pids)


@pytest.mark.slow
def test_sigusr1_is_passed_on_and_nobody_need_read_what_the_job_prints():
    with started(*LOCAL, STAND_IN_MODE="asked") as job:
        ranks_up(job, 2, "ready")
        job.stdout.close()
        os.kill(job.pid, signal.SIGUSR1)
        assert (job.wait(timeout=HANG_S), job.stderr.read()) == (0, "")


def test_make_names_itself_and_nothing_starts_where_it_is_gone():
    with subprocess.Popen(["make", "-n", "train"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as make:
        out, _ = make.communicate()
    (named,) = re.findall("DLRM_MAKE=([0-9]+) exec .*/python launch/local.py", out)
    assert int(named) == make.pid
    job = finished(*LOCAL, DLRM_MAKE=named, STAND_IN_MODE="ok")
    assert (job.returncode, job.stdout, job.stderr) == (128 + signal.SIGTERM, "", "stopped by SIGTERM\n")


def test_a_component_argument_that_makes_no_sense_is_one_line():
    job = finished("launch/local.py", "-j", "0", "--config", "none.yaml")
    assert job.returncode == 2
    assert job.stderr.splitlines() == ["components/dlrm.py:train: -j 0: hosts and ranks must be at least 1"]
