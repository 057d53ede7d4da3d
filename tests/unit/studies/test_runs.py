"""A run of a study as a job: what is started for it, and what of an earlier one is taken, continued or removed."""

import json
import sys

import pytest

from dlrm.config import Config, dump_config
from dlrm.config.study import StudyConfig
from dlrm.jobs.processes import ROOT, Starter
from dlrm.run.files import marker_text
from dlrm.studies.runs import TrainingRun


def run_of(folder, threads=0, **optim):
    own = Config(run={"dir": str(folder), "name": "run", "seed": 7}, optim=optim)
    return TrainingRun("dot", "search", 3, 7, own, folder, ranks_per_host=2, threads=threads)


def leave(run, config, summary):
    run.run_folder.mkdir(parents=True)
    (run.run_folder / "run.json").write_text(marker_text())
    (run.run_folder / "config.yaml").write_text(dump_config(config))
    if summary:
        (run.run_folder / "summary.json").write_text(json.dumps(summary))


SUMMARY = {"stopped": "all epochs trained", "validation": {"auc": 0.7}, "test": None}


def test_a_run_here_is_a_launcher_and_one_elsewhere_goes_through_the_component(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("dlrm.jobs.processes.Job", lambda spec, words, timeout_s: started.append(words))
    monkeypatch.chdir(ROOT)
    run = run_of(tmp_path, threads=3)
    Starter(StudyConfig(study="x"), 60.0, "study").start(run)
    Starter(StudyConfig(study="x", scheduler="slurm", component_args="--cpu 2"), 60.0, "study").start(run)
    here, there = started
    assert here[1:] == [
        str(ROOT / "launch/elastic.py"), "--standalone", "--local-addr", "localhost", "--nproc-per-node", "2",
        "--max-restarts", "0", str(ROOT / "dlrm_main.py"), "train", "--config", str(tmp_path / "config.yaml"),
        "--distributed.threads_per_rank=3",
    ]  # fmt: skip
    assert there[:4] == [sys.executable, str(ROOT / "launch/submit.py"), "--handle", str(tmp_path / "handle")]
    assert there[6:] == [
        "--", "-s", "slurm", "components/dlrm.py:train", "-j", "1x2", "--config", str(tmp_path / "config.yaml"),
        "--error_file", str(tmp_path / "error.json"), "--cpu", "2", "--", "--distributed.threads_per_rank=3",
    ]  # fmt: skip


def test_a_finished_run_counts_wherever_it_lies_and_however_many_threads_it_had(tmp_path):
    run = run_of(tmp_path / "here")
    elsewhere = run.own.model_copy(
        update={
            "run": run.own.run.model_copy(update={"dir": "/else"}),
            "distributed": run.own.distributed.model_copy(update={"threads_per_rank": 4}),
            "resume": run.own.resume.model_copy(update={"job": True}),
        }
    )
    leave(run, elsewhere, SUMMARY)
    assert (run.state(), run.result()["validation"]) == ("done", {"auc": 0.7})
    other = run_of(tmp_path / "here", clip_norm=1.0)
    assert other.state() == "changed"


@pytest.mark.parametrize("changed", [False, True])
def test_a_run_that_was_cut_short_is_left_to_go_on_and_one_of_another_configuration_is_removed(tmp_path, changed):
    run = run_of(tmp_path / "here")
    leave(
        run,
        run.own.model_copy(update={"optim": run.own.optim.model_copy(update={"clip_norm": 2.0})})
        if changed
        else run.own,
        None,
    )
    (run.run_folder / "checkpoints").mkdir()
    assert run.state() == "missing"
    run.prepare()
    assert (run.run_folder / "checkpoints").exists() == (not changed)
    assert run.config.read_text() == dump_config(run.own)
