"""Which state a run is in, by folders made by hand."""

import json
import os
import signal
import subprocess
import sys

import pytest

from dlrm.checkpoint.owner import process_mark
from tests.unit.run.status.folders import NOW, START, Clocks, beat, end, metrics, start, status

PEER = "rank 0 lost another rank, and none on this host has said why: RuntimeError: Connection reset by peer"


@pytest.fixture
def folder(tmp_path):
    start(tmp_path)
    return tmp_path


def child(script, **options):
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, **options)


def identity(pid):
    """What a beat says of the process that sends it."""
    place, _, started = process_mark(pid).rsplit(" ", 2)
    return {"place": place, "pid": pid, "started": int(started)}


@pytest.fixture
def process():
    """A process that waits."""
    with child("import time; print('up', flush=True); time.sleep(600)") as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_run_whose_ranks_are_heard_is_running_with_its_figures(folder):
    for rank in (0, 1):
        beat(folder, rank, age_s=3.0)
    train = {"kind": "train", "epoch": 0, "samples_per_s": 5000.0}
    metrics(
        folder,
        {**train, "step": 20, "loss": 0.6},
        {"kind": "validation", "step": 30, "auc": 0.7},
        {**train, "step": 40, "loss": 0.5},
    )
    saved = folder / "checkpoints"
    for name in ("step_00000010", "step_00000030", "step_00000040", "step_00000050.tmp-" + "0a" * 8):
        (saved / name).mkdir(parents=True)
        (saved / name / "manifest.json").write_text("{}")
    for name in ("step_00000010", "step_00000030"):
        (saved / name / "COMMITTED").write_text("")
        os.utime(saved / name / "COMMITTED", (NOW - 60, NOW - 60))
    found = status(folder)
    assert (found.state, found.step, found.total_steps, found.left_s) == ("running", 40, 100, 30.0)
    assert (found.samples_per_s, found.train.number("loss"), found.validation.number("auc")) == (5000.0, 0.5, 0.7)
    assert (found.saved.step, found.saved.count, found.saved_age_s) == (30, 2, 60.0)
    assert [(one.beat.rank, one.age_s, one.is_silent) for one in found.ranks] == [(0, 3.0, False), (1, 3.0, False)]
    assert (found.problems, found.fault, found.heard_s) == ((), None, 3.0)


def test_a_run_that_has_just_begun_is_starting(tmp_path):
    start(tmp_path, NOW - 20)
    assert status(tmp_path).state == "starting"
    beat(tmp_path, 0, start_s=NOW - 20, doing="starting", step=0)
    assert status(tmp_path).state == "starting"


def test_a_run_that_goes_on_is_at_its_newest_checkpoint_until_it_trains(folder):
    beat(folder, 0, doing="starting", step=0)
    (folder / "checkpoints/step_00000030").mkdir(parents=True)
    (folder / "checkpoints/step_00000030/COMMITTED").write_text("")
    found = status(folder)
    assert (found.state, found.step, found.left_s) == ("starting", 30, None)


def test_beats_of_an_earlier_start_say_nothing_of_the_one_that_has_begun(folder):
    beat(folder, 0, age_s=2.0)
    start(folder, NOW - 10)
    found = status(folder)
    assert (found.state, found.ranks) == ("starting", ())


def test_a_run_of_which_nothing_is_heard_any_more_is_dead(folder):
    for rank in (0, 1):
        beat(folder, rank, age_s=100.0 + rank)
    found = status(folder)
    assert (found.state, found.left_s) == ("dead", None)
    assert found.text.startswith("nothing was heard for 1")


def test_a_run_whose_processes_are_gone_from_this_host_is_dead_at_once(folder, process):
    process.kill()
    process.wait()
    gone = {"place": identity(os.getpid())["place"], "pid": process.pid, "started": 1}
    for rank in (0, 1):
        beat(folder, rank, age_s=1.0, process=gone)
    clocks = Clocks()
    assert (status(folder, clocks).state, clocks.at) == ("dead", 0.0)


def test_dead_ranks_whose_launcher_lives_are_restarted(tmp_path):
    start(tmp_path, launchers=[process_mark(os.getpid())])
    for rank in (0, 1):
        beat(tmp_path, rank, age_s=100.0, restarts_left=1)
    assert status(tmp_path).state == "restarting"
    for rank in (0, 1):
        beat(tmp_path, rank, age_s=100.0, restarts_left=0)
    assert status(tmp_path).state == "dead"


def test_a_run_that_rank_0_calls_finished_is(folder):
    for rank in (0, 1):
        beat(folder, rank, age_s=5000.0, ended="finished", step=100)
    end(folder, 0, "finished", "all epochs trained", step=100)
    found = status(folder)
    assert (found.state, found.text, found.step) == ("finished", "all epochs trained", 100)


def test_ranks_that_have_finished_do_not_hang_while_rank_0_writes_its_report(folder):
    beat(folder, 0, doing="finishing", step=100)
    beat(folder, 1, age_s=40.0, ended="finished", step=100)
    found = status(folder)
    assert (found.state, found.problems) == ("running", ())


def test_a_summary_is_enough_where_the_end_could_not_be_written(folder):
    beat(folder, 0, age_s=500.0)
    (folder / "summary.json").write_text(json.dumps({"stopped": "all epochs trained"}))
    os.utime(folder / "summary.json", (NOW - 400, NOW - 400))
    assert (status(folder).state, status(folder).text) == ("finished", "all epochs trained")


def test_the_summary_of_an_earlier_start_does_not_make_a_dead_one_finished(folder):
    (folder / "summary.json").write_text(json.dumps({"stopped": "all epochs trained"}))
    os.utime(folder / "summary.json", (START - 10, START - 10))
    beat(folder, 0, age_s=500.0)
    assert status(folder).state == "dead"


def test_a_run_that_a_signal_has_stopped_is_stopped(folder):
    line = "stopped by SIGTERM after step 40, which is saved; go on with --resume auto"
    for rank in (0, 1):
        beat(folder, rank, age_s=300.0, ended="interrupt")
        end(folder, rank, "interrupt", line, signal="SIGTERM")
    found = status(folder)
    assert (found.state, found.text, found.fault) == ("stopped", line, None)


def test_a_run_that_ctrl_c_has_interrupted_is_stopped(folder):
    beat(folder, 0, age_s=300.0, ended="interrupt")
    end(folder, 0, "interrupt", "interrupted", signal="SIGINT", step=40)
    assert (status(folder).state, status(folder).text) == ("stopped", "stopped by SIGINT after step 40")


def test_the_first_error_is_the_cause_whatever_the_clocks_say_of_its_consequences(folder):
    end(folder, 0, "peer", PEER, time_s=NOW - 90)  # the clock of host a is behind
    end(folder, 1, "bug", "rank 1 failed: ValueError: boom", time_s=NOW - 5)
    found = status(folder)
    assert (found.state, found.text) == ("failed", "rank 1 failed: ValueError: boom")
    assert (found.fault.rank, found.fault.host, found.fault.log) == (1, "b", "log/rank1.log")


def test_an_error_that_all_ranks_find_is_told_of_once(folder):
    end(folder, 1, "user", "rank 1: a.npy: is empty", time_s=NOW - 6)
    end(folder, 0, "user", "a.npy: is empty", time_s=NOW - 5)
    found = status(folder)
    assert (found.state, found.text, found.fault.rank) == ("failed", "a.npy: is empty", 0)
    assert found.fault.by_user


def test_an_error_that_one_rank_finds_names_it(folder):
    end(folder, 1, "user", "rank 1: a.npy: is empty")
    assert (status(folder).text, status(folder).fault.line) == ("rank 1: a.npy: is empty", "a.npy: is empty")


def test_a_rank_that_ended_without_a_word_is_the_cause_of_what_the_others_say(folder):
    beat(folder, 0, age_s=60.0, ended="peer")
    beat(folder, 1, age_s=65.0, step=39)
    end(folder, 0, "peer", PEER)
    found = status(folder)
    assert (found.state, found.fault.rank, found.fault.host) == ("failed", 1, "b")
    assert found.text.startswith("rank 1 ended without a word (training, after step 39)")


def test_a_rank_that_its_launcher_has_ended_is_not_taken_for_a_run_that_was_stopped(folder):
    beat(folder, 0, age_s=60.0, ended="ended")
    beat(folder, 1, age_s=65.0)
    end(folder, 0, "ended", "stopped by SIGTERM", signal="SIGTERM")
    assert (status(folder).state, status(folder).fault.rank) == ("failed", 1)


@pytest.mark.parametrize(("age_s", "state"), [(30.0, "restarting"), (600.0, "failed")])
def test_a_failure_that_a_launcher_elsewhere_may_mend_is_failed_when_it_has_not(folder, age_s, state):
    for rank in (0, 1):
        beat(folder, rank, age_s=age_s, ended="bug", restarts_left=2)
    end(folder, 1, "bug", "rank 1 failed: ValueError: boom")
    assert status(folder).state == state


def test_what_the_user_has_to_mend_is_not_tried_again(folder):
    beat(folder, 0, ended="user", restarts_left=2)
    end(folder, 0, "user", "a.npy: is empty")
    assert status(folder).state == "failed"


def test_attempts_are_told_from_starts_within_them_and_each_has_its_cause(tmp_path):
    first, second = ["boot pid:[1] 7 9"], ["boot pid:[1] 8 9"]
    job = {"id": "17", "attempt": "0"}
    start(tmp_path, START, launchers=first, job=job)
    start(tmp_path, START + 100, launchers=first, job=job, cause="rank 1 was killed by SIGKILL (out of memory?)")
    start(tmp_path, START + 200, launchers=second, job={"id": "17", "attempt": "1"})
    start(tmp_path, START + 300, launchers=[], job={"id": "", "attempt": "0"})
    start(tmp_path, START + 400, launchers=[])
    end(tmp_path, 0, "peer", PEER, start_s=START)
    end(tmp_path, 0, "interrupt", "stopped by SIGTERM after step 9", start_s=START + 100, signal="SIGTERM")
    end(tmp_path, 1, "bug", "rank 1 failed: ValueError: boom", start_s=START + 300)
    beat(tmp_path, 0, start_s=START + 400)
    found = status(tmp_path)
    assert [[one.ending for one in attempt.starts] for attempt in found.attempts] == [
        ["rank 1 was killed by SIGKILL (out of memory?)", "stopped by SIGTERM after step 9"],
        ["ended without a word: killed, or its host was lost"],
        ["rank 1 failed: ValueError: boom"],
        [None],
    ]
    assert [attempt.starts[0].start.job for attempt in found.attempts] == ["17", "17", None, None]
    assert (found.state, found.fault) == ("running", None)


def test_of_an_earlier_start_the_rank_that_said_nothing_is_named(tmp_path):
    start(tmp_path, START)
    start(tmp_path, START + 100)
    end(tmp_path, 0, "peer", PEER, start_s=START)
    for rank in (0, 1):
        beat(tmp_path, rank, start_s=START + 100)
    ((before, now),) = (attempt.starts for attempt in status(tmp_path).attempts)
    assert (before.fault.rank, now.ending) == (1, None)
    assert before.ending.startswith("rank 1 ended without a word")


def test_a_start_that_could_not_be_written_down_is_known_by_its_ranks(folder):
    for rank in (0, 1):
        beat(folder, rank, start_s=START + 500)
    found = status(folder)
    assert (found.state, len(found.attempts)) == ("running", 2)


def test_a_run_without_signs_of_life_is_unknown(folder):
    found = status(folder)
    assert (found.state, found.step) == ("unknown", None)
    metrics(folder, {"kind": "train", "step": 60, "loss": 0.5, "samples_per_s": 1.0})
    assert status(folder).step == 60


def test_a_run_that_was_killed_before_a_rank_was_heard_is_dead_in_the_end(tmp_path):
    start(tmp_path, cause=None)
    assert (status(tmp_path).state, status(tmp_path).step) == ("dead", None)
    metrics(tmp_path, {"kind": "train", "step": 60, "loss": 0.5})  # it goes on, and heartbeats cannot be written
    assert status(tmp_path).state == "unknown"


def test_a_stopped_process_of_this_host_is_named_at_once(folder, process):
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    beat(folder, 0, still_s=3.0)
    beat(folder, 1, age_s=4.0, pid=process.pid, process=identity(process.pid))
    found = status(folder)
    assert (found.state, [problem.rank for problem in found.problems]) == ("hanging", [1])
    assert "its process is stopped (SIGSTOP" in found.text
