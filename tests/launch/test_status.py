"""What ``status`` says of a real job of two ranks: while it trains, hangs, is killed, restarted, stopped and finished."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.launch.launching import ROOT, all_end
from tests.support.elastic_job import NOT_PASSED, await_true, kill

HANG_S = 150.0  # a guard against hanging tests; nothing is said about speed
SMALL = [
    *("--data.train_samples", "400000", "--data.validation_samples", "1001", "--data.test_samples", "999"),
    *("--data.rows", "100,50,20,300", "--model.bottom_mlp", "16,8", "--model.embedding_dim", "8"),
    *("--model.top_mlp", "16,1", "--train.global_batch_size", "128", "--logging.every_steps", "5"),
    *("--optim.dense.lr", "0.01", "--logging.tensorboard", "false", "--logging.heartbeat_s", "0.3"),
    *("--checkpoint.every_steps", "20", "--resume", "auto", "--run.name", "watched"),
]


class Watched:
    """A run's folder, and the words in which status tells of it."""

    def __init__(self, parent):
        self.parent, self.folder = parent, parent / "watched"

    def status(self, *options):
        words = [sys.executable, "dlrm_main.py", "status", str(self.folder), "--json", *options]
        process = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        assert process.stderr == ""
        return json.loads(process.stdout)

    def until(self, condition, what):
        """The first status for which the condition holds."""
        seen = {}

        def holds():
            seen.update(self.status())
            return condition(seen)

        await_true(lambda: self.folder.is_dir(), HANG_S, "the folder")
        await_true(holds, HANG_S, what)
        return seen

    def training(self, beyond, starts=(1,)):
        """The status when training has come beyond a step, in the newest of so many starts of each attempt."""

        def holds(found):
            counts = tuple(len(attempt["starts"]) for attempt in found["attempts"])
            return found["state"] == "running" and (found["step"] or 0) > beyond and counts == starts

        return self.until(holds, f"training beyond step {beyond} in starts {starts}")

    def rank(self, number):
        return next(one for one in self.status()["ranks"] if one["rank"] == number)


@pytest.fixture
def run(tmp_path):
    return Watched(tmp_path)


@contextmanager
def job(run, *options, restarts=0):
    launcher = ["--standalone", "--local-addr", "localhost", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    words = [sys.executable, "launch/elastic.py", *launcher, "dlrm_main.py", "train", *SMALL, *options]
    environment = {name: value for name, value in os.environ.items() if name not in NOT_PASSED}
    environment["DLRM_JOB_ID"] = "17"
    with (run.parent / "out").open("ab") as out:
        process = subprocess.Popen(
            [*words, "--run.dir", str(run.parent)], cwd=ROOT, env=environment, stdout=out, stderr=out
        )
        try:
            yield process
        finally:
            pids = pids_of(run)
            process.kill()
            process.wait()
            for pid in pids:
                kill(pid)
            assert all_end(pids)


def pids_of(run):
    if not run.folder.is_dir():
        return []
    return [one["pid"] for one in run.status()["ranks"] if one["process"] in ("lives", "stopped")]


@pytest.mark.slow
def test_a_job_is_told_of_while_it_trains_hangs_and_is_killed(run):
    with job(run) as launcher:
        found = run.training(beyond=45)
        assert (found["total_steps"], found["first_error"]) == (3125, None)
        assert found["left_s"] > 0
        assert found["samples_per_s"] > 0
        assert 0 < found["loss"] < 1
        assert found["checkpoints"]["newest_step"] >= 20
        assert [(one["rank"], one["silent"], one["process"]) for one in found["ranks"]] == [
            (0, False, "lives"),
            (1, False, "lives"),
        ]
        assert max(abs(one["step"] - found["step"]) for one in found["ranks"]) < 200

        pid = run.rank(1)["pid"]
        os.kill(pid, signal.SIGSTOP)
        found = run.until(lambda found: found["state"] == "hanging", "a hang")
        assert [problem["rank"] for problem in found["problems"]] == [1]
        assert "rank 1 (host " in found["text"]
        os.kill(pid, signal.SIGCONT)
        run.training(beyond=found["step"])

        pids = pids_of(run)
        for victim in (launcher.pid, *pids):
            kill(victim)
        assert all_end(pids)
        found = run.status()
        assert (found["state"], found["left_s"]) == ("dead", None)
        assert found["text"].startswith("nothing was heard for ")


@pytest.mark.slow
def test_a_killed_rank_an_interruption_and_the_end_are_told_apart(run):
    with job(run, restarts=1) as launcher:
        run.training(beyond=45)
        kill(run.rank(1)["pid"])
        found = run.training(beyond=45, starts=(2,))
        first = found["attempts"][0]["starts"][0]
        assert re.search("rank 1 (was killed by SIGKILL|ended without a word)", first["ending"])
        assert (first["first_error"]["rank"], found["first_error"]) == (1, None)
        launcher.terminate()
        assert launcher.wait(HANG_S) == 128 + signal.SIGTERM
        found = run.status()
        assert found["state"] == "stopped"
        assert f"stopped by SIGTERM after step {found['step']}" in found["text"]
        assert found["checkpoints"]["newest_step"] == found["step"]

    last = found["step"] + 30
    with job(run, "--train.max_steps", str(last)) as launcher:
        assert launcher.wait(HANG_S) == 0
    found = run.status()
    assert (found["state"], found["text"], found["step"]) == ("finished", "train.max_steps reached", last)
    assert [(attempt["job"], len(attempt["starts"])) for attempt in found["attempts"]] == [("17", 2), ("17", 1)]
    assert "SIGTERM" in found["attempts"][0]["starts"][1]["ending"]
    assert 0 < found["test_auc"] <= 1


@pytest.mark.slow
def test_a_failure_is_told_of_with_its_rank_and_the_log_that_has_its_traceback(run):
    with job(run, "--optim.dense.lr", "1e30") as launcher:
        assert launcher.wait(HANG_S) == 2
    found = run.status()
    assert found["state"] == "failed"
    assert "training has diverged" in found["first_error"]["line"]
    assert "DivergedError" in Path(run.folder, found["first_error"]["log"]).read_text()


@pytest.mark.slow
def test_a_signal_after_training_is_told_of_as_well(run):
    late = ["--train.max_steps", "10", "--data.test_samples", "8000000"]
    with job(run, *late) as launcher:
        run.until(
            lambda found: found["step"] == 10 and "evaluating" in [one["doing"] for one in found["ranks"]], "scores"
        )
        launcher.terminate()
        assert launcher.wait(HANG_S) == 128 + signal.SIGTERM
    assert (run.status()["state"], run.status()["text"]) == ("stopped", "stopped by SIGTERM")


@pytest.mark.slow
def test_who_watches_sees_the_run_until_it_has_ended(run):
    with job(run, "--train.max_steps", "200"):
        run.training(beyond=10)
        words = [sys.executable, "dlrm_main.py", "status", str(run.folder), "--watch", "--every_s", "0.5", "--json"]
        process = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=True)
    states = [json.loads(line)["state"] for line in process.stdout.splitlines()]
    assert states[0] == "running"
    assert states[-1] == "finished"
