"""The command scale on this host with real jobs: points that fail, ranks and scale itself killed, started again, Ctrl-C."""

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
name: small
batch: weak
samples_per_rank: 64
ranks: [1, 2]
repeats: 1
timeout_s: 400
vary:
  data:
    - {label: generated, options: {}}
    - {label: absent, options: {data: ABSENT}}
exclude:
  - {data: absent, ranks: 2}
options:
  data: {kind: random, train_samples: 20000, rows: [100, 50, 20, 300]}
  model: {embedding_dim: 8, bottom_mlp: [16, 8], top_mlp: [16, 1]}
  distributed: {device: cpu, threads_per_rank: 1}
  steps: 200
  warmup_steps: 1
  profiled_steps: 4
"""
ABSENT, MENDED = "{kind: packed, path: /nowhere, rows: [100, 50, 20, 300]}", "{seed: 1}"
HANG_S = 200.0


class Scale:
    """The command with one experiment and one output."""

    def __init__(self, folder):
        self.file, self.output, self.printed = folder / "experiment.yaml", folder / "out", folder / "printed"
        self.write(ABSENT)

    def write(self, absent):
        self.file.write_text(TEXT.replace("ABSENT", absent))

    @contextmanager
    def started(self):
        """Scale under way; nothing of it is left behind."""
        for log in self.output.glob("points/*/repeat_0/log/rank0.log"):
            log.unlink()  # else ranks() would take that of an earlier job for the next one's
        environment = {name: value for name, value in os.environ.items() if name not in NOT_PASSED}
        words = [sys.executable, str(ROOT / "dlrm_main.py"), "scale", str(self.file), "--output", str(self.output)]
        with self.printed.open("ab") as output:
            process = subprocess.Popen(
                words, cwd=self.output.parent, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            yield process
        finally:
            for pid in [process.pid, *self.processes(process)]:
                with _if_there():
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def run(self):
        """The exit code."""
        with self.started() as process:
            return process.wait(HANG_S)

    def ranks(self, process, point):
        """Wait for the ranks of a point to train; their process ids."""
        log = self.output / "points" / point / "repeat_0/log/rank0.log"
        await_true(lambda: log.exists() or process.poll() is not None, HANG_S, f"ranks of {point}")
        return [pid for pid in self.processes(process) if "dlrm_main.py" in " ".join(_words(pid)[:3])]

    def processes(self, process):
        """All below it."""
        with _if_there():
            return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        return []

    def outcomes(self):
        with (self.output / "results.csv").open(newline="") as file:
            return {row["point"]: (row["status"], row["reason"]) for row in csv.DictReader(file)}

    def result(self, point):
        return self.output / "points" / point / "repeat_0/benchmark.json"


def _if_there():
    return suppress(ProcessLookupError, psutil.Error)


def _words(pid):
    with _if_there():
        return psutil.Process(pid).cmdline()
    return []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_one_command_to_a_table_whatever_is_killed_meanwhile(tmp_path):
    scale = Scale(tmp_path)

    with scale.started() as process:  # a rank is killed, and one point cannot work
        ranks = scale.ranks(process, "1x2.generated")
        assert len(ranks) == 2, scale.printed.read_text()
        os.kill(ranks[1], signal.SIGKILL)
        assert process.wait(HANG_S) == 1, scale.printed.read_text()
    found = scale.outcomes()
    assert found["1x1.generated"] == ("done", "")
    assert found["1x1.absent"] == ("failed", "/nowhere: there is no such folder; name the folder of a packed data set")
    status, reason = found["1x2.generated"]
    assert (status, "was killed by SIGKILL" in reason) == ("failed", True), reason
    kept = scale.result("1x1.generated").stat().st_mtime_ns

    scale.write(MENDED)
    with scale.started() as process:  # scale itself is killed
        scale.ranks(process, "1x2.generated")
        below = scale.processes(process)
        assert below
        process.kill()
        process.wait()
        await_all_gone(below, HANG_S)
    assert not scale.result("1x2.generated").exists()

    with scale.started() as process:  # Ctrl-C
        scale.ranks(process, "1x2.generated")
        below = scale.processes(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(HANG_S) == 130
        await_all_gone(below, 1.0)
    assert scale.outcomes()["1x2.generated"] == ("missing", "")

    assert scale.run() == 0, scale.printed.read_text()
    assert set(scale.outcomes().values()) == {("done", "")}
    assert scale.result("1x1.generated").stat().st_mtime_ns == kept
    assert json.loads(scale.result("1x2.generated").read_text())["ranks"] == 2
    *_, told, report = scale.printed.read_text().splitlines()
    assert told.startswith("table in ")
    assert report.startswith("report in ")


def test_mistakes_and_the_points_are_told_without_a_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scale = Scale(tmp_path)
    (outcome,) = run_command(["scale", str(scale.file), "--dry_run"])
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert all(name in outcome.stdout for name in ("1x1.generated", "1x1.absent", "1x2.generated", "small: 3 points"))
    scale.write("{kind: random, hotnes: 4}")
    (outcome,) = run_command(["scale", str(scale.file)])
    assert outcome.exit_code == 2
    line = f"{scale.file}: point 1x1.absent: data.hotnes: unknown option; did you mean data.hotness?"
    assert outcome.stderr.splitlines() == [line]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experiment.yaml"]
