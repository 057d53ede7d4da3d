import os
import re
import signal
import sys

import pytest

from tests.launch.launching import ELASTIC, HANG_S, PROGRAM, all_end, finished, free_port, interrupt, ranks_up, started

LEAVES_FIRST = """
import os, time
from torch.distributed.rendezvous import rendezvous
store, rank, _ = next(rendezvous("env://"))
assert os.environ["TORCH_DIST_INIT_BARRIER"] == "1"
if rank == 0:
    store.set("pid", str(os.getpid()))
    store.wait(["read"])
    os._exit(0)
pid = int(store.get("pid"))
store.set("read", "")
try:
    while True:
        os.kill(pid, 0)
        time.sleep(0.01)
except ProcessLookupError:
    assert int(store.get("pid")) == pid
    print("rank 0 has left")
"""


def test_a_user_error_on_every_rank_is_one_line_and_exit_code_2():
    job = finished(*ELASTIC, "alike")
    assert job.returncode == 2
    assert job.stderr == "day_0.tsv, row 3, column I1: 'x' is not an integer\n"


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_killed_rank_is_named_with_its_signal():
    job = finished(*ELASTIC, "killed")
    assert job.returncode == 128 + signal.SIGKILL
    assert job.stderr == "rank 1 was killed by SIGKILL (out of memory?)\n"


@pytest.mark.slow
def test_a_rank_that_exits_without_a_word_is_named_with_its_exit_code():
    job = finished(*ELASTIC, "exit")
    assert job.returncode == 3
    assert job.stderr == "rank 1 failed: exit code 3\n"


@pytest.mark.slow
def test_ranks_that_call_different_collectives_end_with_an_error_that_names_them():
    job = finished(*ELASTIC, "apart")
    assert job.returncode == 1
    (line,) = job.stderr.splitlines()
    named = (
        r"rank 0 all_reduce at rank_program.py:\d+ \(main\), rank 1 broadcast at rank_program.py:\d+ \(main\); rank \d "
    )
    assert re.match(f"ranks called different collectives: {named}", line)


@pytest.mark.slow
def test_a_job_that_succeeds_says_nothing_on_stderr():
    job = finished(*ELASTIC, "ok")
    assert (job.returncode, job.stderr) == (0, "")


@pytest.mark.slow
def test_the_store_of_the_ranks_outlives_a_rank_that_has_left(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(LEAVES_FIRST)
    job = finished(*ELASTIC[:-1], str(program))
    assert (job.returncode, job.stdout, job.stderr) == (0, "rank 0 has left\n", "")


@pytest.mark.slow
def test_what_is_ignored_stays_ignored():
    nohup = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    with started("-c", nohup, sys.executable, *ELASTIC, "wait") as job:
        pids = ranks_up(job, 2)
        os.kill(job.pid, signal.SIGHUP)  # comes first, where it comes
        os.kill(job.pid, signal.SIGTERM)
        _, err = job.communicate(timeout=HANG_S)
        assert (job.returncode, err) == (128 + signal.SIGTERM, "stopped by SIGTERM\n")
        assert all_end(pids)


def test_a_launcher_whose_torchx_client_is_gone_starts_nothing(tmp_path):
    with started("-c", "pass") as client:
        client.wait()
    local = {"PET_LOG_DIR": str(tmp_path), "TORCHX_RANK0_HOST": "localhost"}
    job = finished(*ELASTIC, "alike", DLRM_CLIENT=str(client.pid), **local)
    assert (job.returncode, job.stdout, job.stderr) == (1, "", "")


def test_ctrl_c_ends_all_ranks_with_one_line_and_exit_code_130():
    with started(*ELASTIC, "wait") as job:
        pids = ranks_up(job, 2)
        interrupt(job)
        _, err = job.communicate(timeout=HANG_S)
        assert (job.returncode, err) == (130, "interrupted\n")
        assert all_end(pids)


@pytest.mark.slow
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


def test_ranks_are_started_again_after_one_was_killed_and_a_line_says_so():
    launcher, program = ELASTIC[0], ELASTIC[1:]
    job = finished(launcher, "--max-restarts", "2", *program, "killed_once")
    assert job.returncode == 0
    cause = "rank 1 was killed by SIGKILL (out of memory?)"
    assert job.stderr == f"{cause}; starting all ranks again (1 more time(s) at most)\n"
    assert sorted(line.split()[1] for line in job.stdout.splitlines()) == ["0", "0", "1", "1"]


@pytest.mark.slow
def test_what_the_user_has_to_mend_is_not_tried_again():
    launcher, program = ELASTIC[0], ELASTIC[1:]
    job = finished(launcher, "--max-restarts", "2", *program, "user")
    assert job.returncode == 2
    assert job.stderr == "rank 1: day_0.tsv, row 3, column I1: 'x' is not an integer\n"


@pytest.mark.parametrize("word", ["up", "ready"])
@pytest.mark.slow
def test_sigusr1_is_passed_on_to_the_ranks_as_soon_as_they_listen(word):
    with started(*ELASTIC, "asked") as job:
        ranks_up(job, 2, word)
        os.kill(job.pid, signal.SIGUSR1)
        out, err = job.communicate(timeout=HANG_S)
        assert (job.returncode, err) == (0, "")
        assert sorted(line for line in out.splitlines() if line.startswith("asked")) == ["asked 0", "asked 1"]


@pytest.mark.slow
def test_sigusr1_from_before_there_are_ranks_reaches_them():
    early = "import os, signal, sys; sys.path.insert(0, 'launch'); import elastic; run = elastic.run; "
    early += "elastic.run = lambda *given: os.kill(os.getpid(), signal.SIGUSR1) or run(*given); "
    early += "sys.exit(elastic.main(sys.argv[1:]))"
    job = finished("-c", early, *ELASTIC[1:], "asked")
    assert (job.returncode, job.stderr) == (0, "")
    assert sorted(line for line in job.stdout.splitlines() if line.startswith("asked")) == ["asked 0", "asked 1"]


@pytest.mark.parametrize(
    ("number", "told"), [(signal.SIGKILL, "starting all"), (signal.SIGSTOP, "lost host localhost")]
)
@pytest.mark.slow
def test_when_a_host_dies_or_falls_silent_the_others_go_on_without_it(number, told):
    meeting = ["--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3", "--local-addr", "localhost"]
    meeting += ["--rdzv-backend", "c10d", "--rdzv-id", "hosts", "--rdzv-endpoint", f"localhost:{free_port()}"]
    patience = "last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=6"
    secret = {"DLRM_JOB_SECRET": "s" * 32}
    # Here both have the address of the meeting point; where it is may not depend on which of them comes first.
    with (
        started(ELASTIC[0], *meeting, "--rdzv-conf", f"{patience},is_host=true", PROGRAM, "alone", **secret) as first,
        started(ELASTIC[0], *meeting, "--rdzv-conf", f"{patience},is_host=false", PROGRAM, "alone", **secret) as second,
    ):
        ranks_up(first, 1)
        (pid,) = ranks_up(second, 1)
        os.kill(pid, number)
        os.kill(second.pid, number)
        _, err = first.communicate(timeout=HANG_S)
        assert first.returncode == 0, err
        assert told in err
        assert "starting all ranks again" in err
