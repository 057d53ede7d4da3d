import os
import signal

from tests.launch.launching import ELASTIC, HANG_S, all_end, finished, interrupt, ranks_up, started


def test_a_user_error_on_every_rank_is_one_line_and_exit_code_2():
    job = finished(*ELASTIC, "alike")
    assert job.returncode == 2
    assert job.stderr == "day_0.tsv, row 3, column I1: 'x' is not an integer\n"


def test_a_user_error_that_one_rank_finds_names_the_rank():
    job = finished(*ELASTIC, "user")
    assert job.returncode == 2
    assert job.stderr == "rank 1: day_0.tsv, row 3, column I1: 'x' is not an integer\n"


def test_a_bug_on_one_rank_ends_the_job_with_its_traceback_and_nothing_of_the_others():
    job = finished(*ELASTIC, "bug")
    lines = job.stderr.splitlines()
    assert job.returncode == 1
    assert lines[-2:] == ["ValueError: boom", "rank 1 failed: ValueError: boom"]
    assert job.stderr.count("Traceback") == 1
    assert "gloo" not in job.stderr


def test_a_killed_rank_is_named_with_its_signal():
    job = finished(*ELASTIC, "killed")
    assert job.returncode == 128 + signal.SIGKILL
    assert job.stderr == "rank 1 was killed by SIGKILL (out of memory?)\n"


def test_a_rank_that_exits_without_a_word_is_named_with_its_exit_code():
    job = finished(*ELASTIC, "exit")
    assert job.returncode == 3
    assert job.stderr == "rank 1 failed: exit code 3\n"


def test_a_job_that_succeeds_says_nothing_on_stderr():
    job = finished(*ELASTIC, "ok")
    assert (job.returncode, job.stderr) == (0, "")


def test_ctrl_c_ends_all_ranks_with_one_line_and_exit_code_130():
    with started(*ELASTIC, "wait") as job:
        pids = ranks_up(job, 2)
        interrupt(job)
        _, err = job.communicate(timeout=HANG_S)
        assert (job.returncode, err) == (130, "interrupted\n")
        assert all_end(pids)


def test_ranks_do_not_outlive_a_killed_launcher():
    with started(*ELASTIC, "wait") as job:
        pids = ranks_up(job, 2)
        os.kill(job.pid, signal.SIGKILL)
        assert all_end(pids)


def test_arguments_that_make_no_sense_are_one_line():
    job = finished("launch/elastic.py", "--standalone", "--nproc-per-node", "some", "none.py")
    assert job.returncode == 1
    assert len(job.stderr.splitlines()) == 1
    assert job.stderr.startswith("launch failed: ")
