"""The command study with real runs: killed and started again, interrupted, and an ensemble of what was chosen."""

import csv
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

import psutil
import pytest

from dlrm.jobs.processes import ROOT
from tests.support.command import run_command
from tests.support.elastic_job import NOT_PASSED, await_all_gone, await_true

TEXT = """
name: tiny
options:
  data: {kind: planted, train_samples: 30000, validation_samples: 2000, test_samples: 2000, rows: [50, 20], num_dense: 3}
  model: {embedding_dim: 4, bottom_mlp: [8, 4], top_mlp: [8, 1]}
  train.global_batch_size: 50
  evaluation.global_batch_size: 2000
  checkpoint.every_steps: 100
  logging: {tensorboard: false, every_steps: 20}
  distributed: {device: cpu, threads_per_rank: 1}
arms:
  single: {}
  mean_of_2: {of: single, ensemble: 2}
search: {kind: bayes, trials: 2, startup_trials: 1, space: {optim.dense.lr: {kind: float, low: 0.01, high: 0.1, log: true}}}
final_seeds: 1
timeout_s: 400
"""
HANG_S = 300.0


class Study:
    """The command with one study and one output."""

    def __init__(self, folder):
        self.file, self.output, self.printed = folder / "study.yaml", folder / "out", folder / "printed"
        self.file.write_text(TEXT)

    @contextmanager
    def started(self):
        """Under way; nothing of it is left behind."""
        environment = {name: value for name, value in os.environ.items() if name not in NOT_PASSED}
        words = [sys.executable, str(ROOT / "dlrm_main.py"), "study", str(self.file), "--output", str(self.output)]
        with self.printed.open("ab") as output:
            process = subprocess.Popen(
                words, cwd=self.output.parent, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            yield process
        finally:
            for pid in [process.pid, *below(process)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def await_training(self, process, run, step):
        """Wait for a run to have come so far."""
        metrics = self.output / "arms" / "single" / run / "run" / "metrics.jsonl"

        def has_come():
            return metrics.exists() and f'"step": {step},' in metrics.read_text()

        await_true(lambda: has_come() or process.poll() is not None, HANG_S, run)
        assert process.poll() is None, self.printed.read_text()

    def starts(self, run):
        """How many jobs have worked on a run."""
        lines = (self.output / "arms" / "single" / run / "run" / "processes.jsonl").read_text().splitlines()
        return sum("launchers" in json.loads(line) for line in lines)


def below(process):
    with suppress(psutil.Error):
        return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    return []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_one_command_to_a_report_whatever_is_killed_meanwhile(tmp_path):
    study = Study(tmp_path)
    with study.started() as process:  # the study itself is killed while its second trial trains
        study.await_training(process, "trials/1/seed_0", 200)
        children = below(process)
        process.kill()
        process.wait()
        await_all_gone(children, HANG_S)
    with study.started() as process:  # Ctrl-C in a final run
        study.await_training(process, "final/seed_100", 20)
        children = below(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(HANG_S) == 130
        await_all_gone(children, 5.0)
    with study.started() as process:
        assert process.wait(HANG_S) == 0, study.printed.read_text()

    assert {run: study.starts(run) for run in ("trials/0/seed_0", "trials/1/seed_0", "final/seed_100")} == {
        "trials/0/seed_0": 1,
        "trials/1/seed_0": 2,
        "final/seed_100": 2,
    }
    again = (study.output / "arms/single/trials/1/seed_0/run/processes.jsonl").read_text()
    assert again.count('"launchers"') == 2
    for number in (0, 1):  # no trial has looked at test samples
        summary = json.loads((study.output / f"arms/single/trials/{number}/seed_0/run/summary.json").read_text())
        assert (summary["test"], summary["steps"]) == (None, 600)
    with (study.output / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    aucs = {row["arm"]: float(row["value"]) for row in rows if (row["split"], row["quantity"]) == ("test", "auc")}
    assert aucs.keys() == {"single", "mean_of_2"}
    assert all(0.6 < auc < 0.95 for auc in aucs.values())
    single = json.loads((study.output / "arms/single/final/seed_100/run/summary.json").read_text())
    assert aucs["single"] == single["test"]["auc"]
    page = (study.output / "report.html").read_text()
    assert "mean_of_2 averages the probabilities of 2 models" in page
    assert "They scored no test samples" in page


def test_the_arms_of_the_quick_study_and_mistakes_are_told_without_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (outcome,) = run_command(["study", str(ROOT / "configs/studies/quick.yaml"), "--dry_run"])
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert all(name in outcome.stdout for name in ("quick: 2 arms", "dot", "cat", "grid of 2 over rate"))
    study = Study(tmp_path)
    study.file.write_text(TEXT.replace("optim.dense.lr", "optim.dense.ler"))
    (outcome,) = run_command(["study", str(study.file)])
    assert outcome.exit_code == 2
    assert "arm single with optim.dense.ler 0.01: optim.dense.ler: unknown option; did you mean optim.dense.lr?" in (
        outcome.stderr
    )
    assert not (tmp_path / "runs").exists()
