"""Jobs that are killed, stopped or asked to save under the launcher, and what goes on from their checkpoints."""

import json
import os
import shutil
import signal
from collections import Counter
from types import SimpleNamespace

import pytest

from tests.support.command import run_command
from tests.support.elastic_job import (
    ElasticJob,
    await_all_gone,
    await_true,
    committed_steps,
    differing_tensors,
    kill,
    saved_tensors,
    small_training,
)
from tests.support.numbered_data import write_numbered_data
from tests.support.step_log import last_event, read_attempts, trained_samples

ROWS = (2000, 1000, 500, 50)
SAMPLES, BATCH, STEPS = 9_917, 32, 310  # the last batch is not full, the last step none at which losses are recorded
PATIENCE_S = 120  # a guard against hanging tests; nothing is said about speed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbered") / "data"
    write_numbered_data(folder, SAMPLES, ROWS)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """A run to which nothing happens, saved at its end only, and its final state."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    outcomes = run_command(["train", *training(data, folder), "--checkpoint.every_minutes", "null"], 2)
    assert [outcome.exit_code for outcome in outcomes] == [0, 0], outcomes
    assert committed_steps(checkpoints(folder)) == [STEPS]
    return SimpleNamespace(folder=folder, state=saved_tensors(checkpoints(folder) / f"step_{STEPS:08d}"))


def training(data, folder):
    """The same training, whatever the number of ranks."""
    options = [
        *small_training(data, ROWS),
        "--train.global_batch_size",
        str(BATCH),
        "--evaluation.global_batch_size",
        "2000",
    ]
    return [*options, "--run.dir", str(folder), "--run.name", "run"]


def start(data, folder, ranks, *options, max_restarts=0):
    words, log, output = [*training(data, folder), *options], folder / "steps", folder / "output"
    return ElasticJob(words, ranks=ranks, log=log, output=output, max_restarts=max_restarts)


def checkpoints(folder):
    return folder / "run" / "checkpoints"


def printed(folder):
    return (folder / "output").read_text()


def last_trained(folder):
    return max((last_event(path)[1] or 0 for path in (folder / "steps").glob("*.jsonl")), default=0)


def await_step(folder, step):
    await_true(lambda: last_trained(folder) >= step, PATIENCE_S, f"step {step}; printed: {printed(folder)[-2000:]}")


def samples_of(folder):
    trained = trained_samples(read_attempts(folder / "steps"))
    assert sorted(trained) == list(range(1, STEPS + 1))
    return Counter(sample for samples in trained.values() for sample in samples)


@pytest.mark.slow
def test_ranks_that_were_killed_are_started_again_and_the_run_ends_as_if_nothing_had_happened(
    data, uninterrupted, tmp_path
):
    with start(data, tmp_path, 2, "--checkpoint.every_steps", "25", max_restarts=1) as job:
        await_step(tmp_path, 60)
        workers = job.workers()
        assert len(workers) == 2
        kill(workers[1])
        await_all_gone(workers, PATIENCE_S)
        committed, reached = max(committed_steps(checkpoints(tmp_path))), last_trained(tmp_path)
        assert job.wait(PATIENCE_S) == 0, printed(tmp_path)
    first, second = read_attempts(tmp_path / "steps")
    assert (first.resumed, second.resumed) == (0, committed)
    assert 25 <= committed <= reached < STEPS
    assert differing_tensors(uninterrupted.state, saved_tensors(checkpoints(tmp_path) / f"step_{STEPS:08d}")) == []
    assert samples_of(tmp_path) == Counter(range(SAMPLES))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run")] == ["run"]
    text = printed(tmp_path)
    assert "was killed by SIGKILL" in text
    assert f"step_{committed:08d} (step {committed}," in text  # what it went on from


@pytest.fixture
def begun(data, tmp_path):
    """Another run, whose checkpoint of step 20 is what runs begin with."""
    options = ["--run.dir", str(tmp_path), "--run.name", "begun", "--train.max_steps", "20"]
    (outcome,) = run_command(["train", *training(data, tmp_path), *options])
    assert outcome.exit_code == 0, outcome
    return tmp_path / "begun"


@pytest.mark.slow
def test_ranks_that_are_started_again_go_on_with_their_own_run_and_not_with_what_it_began_with(data, begun, tmp_path):
    options = ["--resume.checkpoint", str(begun), "--checkpoint.every_steps", "25"]
    with start(data, tmp_path, 2, *options, max_restarts=1) as job:
        await_step(tmp_path, 60)
        shutil.rmtree(begun)  # nor need it be there any more
        workers = job.workers()
        kill(workers[1])
        await_all_gone(workers, PATIENCE_S)
        committed = max(committed_steps(checkpoints(tmp_path)))
        assert job.wait(PATIENCE_S) == 0, printed(tmp_path)
    assert committed >= 25
    assert [attempt.resumed for attempt in read_attempts(tmp_path / "steps")] == [20, committed]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run")] == ["run"]


@pytest.mark.slow
def test_ranks_that_are_started_again_before_their_run_has_saved_begin_with_the_other_once_more(data, begun, tmp_path):
    with start(data, tmp_path, 1, "--resume.checkpoint", str(begun), max_restarts=1) as job:
        await_step(tmp_path, 40)
        assert committed_steps(checkpoints(tmp_path)) == []
        kill(job.workers()[0])
        assert job.wait(PATIENCE_S) == 0, printed(tmp_path)
    assert [attempt.resumed for attempt in read_attempts(tmp_path / "steps")] == [20, 20]
    assert committed_steps(checkpoints(tmp_path)) == [STEPS]


def test_a_run_that_has_ended_goes_on_without_a_step_and_comes_to_the_same_scores(data, uninterrupted):
    folder = uninterrupted.folder
    before = json.loads((folder / "run" / "summary.json").read_text())
    outcomes = run_command(["train", *training(data, folder), "--resume", "auto"], 2)
    assert [(outcome.exit_code, outcome.stderr) for outcome in outcomes] == [(0, ""), (0, "")]
    after = json.loads((folder / "run" / "summary.json").read_text())
    for figure in ("steps", "samples", "stopped", "validation", "test"):
        assert after[figure] == before[figure]
    assert committed_steps(checkpoints(folder)) == [STEPS]


@pytest.fixture(scope="module")
def moved(data, tmp_path_factory):
    """A run on two ranks that gets SIGUSR1, then SIGTERM, and goes on on one rank."""
    folder = tmp_path_factory.mktemp("moved")
    options = ["--checkpoint.every_minutes", "null", "--checkpoint.poll_s", "0.1", "--resume", "auto"]
    with start(data, folder, 2, *options) as job:
        await_step(folder, 20)
        os.kill(job.process.pid, signal.SIGUSR1)
        await_true(lambda: committed_steps(checkpoints(folder)), PATIENCE_S, "the save that SIGUSR1 asks for")
        (asked,) = committed_steps(checkpoints(folder))
        await_step(folder, asked + 20)
        os.kill(job.process.pid, signal.SIGTERM)
        code = job.wait(PATIENCE_S)
    stopped, reached = committed_steps(checkpoints(folder)), last_trained(folder)
    with start(data, folder, 1, *options) as job:
        assert job.wait(PATIENCE_S) == 0, printed(folder)
    return SimpleNamespace(folder=folder, asked=asked, code=code, stopped=stopped, reached=reached)


def test_sigusr1_to_the_launcher_saves_and_training_goes_on(moved):
    assert 20 <= moved.asked < moved.reached
    assert reason(moved.folder, moved.asked) in (None, "SIGUSR1")  # None: newer ones have taken its place


def test_sigterm_to_the_launcher_saves_the_last_step_and_ends_the_job(moved):
    assert moved.code == 128 + signal.SIGTERM
    assert moved.stopped == [moved.asked, moved.reached]
    assert moved.reached < STEPS


def test_one_rank_goes_on_where_two_have_stopped_and_every_sample_is_trained_once(moved, uninterrupted):
    two, one = read_attempts(moved.folder / "steps")
    assert (len(two.events), len(one.events)) == (2, 1)
    assert (two.resumed, one.resumed) == (0, moved.reached)
    assert samples_of(moved.folder) == Counter(range(SAMPLES))
    weights = saved_tensors(checkpoints(moved.folder) / f"step_{STEPS:08d}")
    expected = uninterrupted.state
    assert weights.keys() == expected.keys()
    largest = max((weights[name].double() - expected[name].double()).abs().max().item() for name in weights)
    assert largest < 1e-4  # rounding, which training amplifies


def reason(folder, step):
    path = checkpoints(folder) / f"step_{step:08d}" / "manifest.json"
    return json.loads(path.read_text())["facts"]["reason"] if path.exists() else None
