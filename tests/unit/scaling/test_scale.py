"""What scale does with its jobs: their order, what is kept, what is run again, and the table; the jobs are made up."""

import csv
import json
import os
import signal
from dataclasses import dataclass, field

import pyarrow.parquet
import pytest

from dlrm.config import dump_config
from dlrm.config.experiment import ScaleConfig
from dlrm.errors import ConfigError, SetupError, StoppedBySignal
from dlrm.files import alone
from dlrm.jobs import runner
from dlrm.jobs.processes import Ended
from dlrm.scaling.benchmark.file_format import FORMAT, VERSION
from dlrm.scaling.experiments import job
from dlrm.scaling.experiments.runner import RepeatsFailed
from dlrm.scaling.report import looks, parts
from dlrm.scaling.table import Row

TEXT = """
name: small
batch: weak
samples_per_rank: 8
ranks: [1, 2]
repeats: 2
vary:
  sharding: [{label: rows, options: {sharding.types: row_wise}}, {label: tables, options: {sharding.types: table_wise}}]
"""


def result(repeat, speed=100.0):
    ranks = repeat.point.ranks
    by_rank = [1.0 + rank for rank in range(ranks)]
    stage = {"stage": "lookup", "mean_ms": 2.0, "by_rank_ms": by_rank}
    return {
        "format": FORMAT, "version": VERSION, "hosts": repeat.point.hosts, "ranks": ranks,
        "samples_per_s": speed, "step": {"median_ms": 5.0, "p5_ms": 4.0, "p95_ms": 6.0},
        "breakdown": {"stages": [stage], "busy_ms": by_rank}, "bytes_sent": {"all_to_all": [10.0 * one for one in by_rank]},
        "memory": {"host_bytes_by_rank": [7] * ranks, "device_bytes_by_rank": None},
    }  # fmt: skip


@dataclass
class Cluster:
    """Stands for a starter and its jobs.

    Attributes:
        started: names of repeats, in order; ends: what becomes of some, by name: a reason, or an Ended.
        takes: polls that a job takes; interrupts_at: the name of a repeat during which Ctrl-C comes, or another signal.
    """

    ends: dict = field(default_factory=dict)
    takes: int = 1
    signals_at: dict = field(default_factory=dict)
    started: list = field(default_factory=list)
    most_at_once: int = 0
    under_way: set = field(default_factory=set)
    left: dict = field(default_factory=dict)
    speeds: dict = field(default_factory=dict)
    answers: bool = True

    def __call__(self, config, timeout_s):
        return self

    def start(self, repeat):
        self.started.append(repeat.name)
        return self.job(repeat)

    def find(self, repeat):
        return self.left.pop(repeat.name, None) and self.job(repeat)

    def job(self, repeat):
        self.under_way.add(repeat.name)
        self.most_at_once = max(self.most_at_once, len(self.under_way))
        return Job(self, repeat)


@dataclass
class Job:
    cluster: Cluster
    repeat: object
    process: int = 2**22 + 1  # beyond what Linux gives
    duration_s: float = 3.0
    polls: int = 0

    def poll(self):
        name = self.repeat.name
        if number := self.cluster.signals_at.pop(name, 0):
            os.kill(os.getpid(), number)
            return None
        self.polls += 1
        if self.polls < self.cluster.takes:
            return None
        self.cluster.under_way.discard(name)
        ended = self.cluster.ends.get(name, Ended())
        if not ended.reason:
            folder, config = self.repeat.folder, self.repeat.point.config
            written = config.model_copy(update={"output": str(folder)})
            (folder / "benchmark.yaml").write_text(dump_config(written))
            speed = self.cluster.speeds.get(name, 100.0)
            (folder / "benchmark.json").write_text(json.dumps(result(self.repeat, speed)))
        return ended

    def ask_to_stop(self):
        """As a scheduler is asked."""

    def stop(self):
        self.cluster.under_way.discard(self.repeat.name)
        return self.cluster.answers


@pytest.fixture(scope="module")
def empty():
    return looks.pictures_of(lambda width_in: looks.figure(width_in, 1.0)[0])


@pytest.fixture
def scale(tmp_path, monkeypatch, empty):
    """Runs scale with jobs that are made up."""
    for name in ("RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)

    def run(cluster, text=TEXT, drawn=False, **options):
        monkeypatch.setattr(job, "Starter", cluster)
        if not drawn:  # pictures would take most of the time
            monkeypatch.setattr(parts, "pictures_of", lambda draw: empty)
        (tmp_path / "experiment.yaml").write_text(text)
        config = {"experiment": str(tmp_path / "experiment.yaml"), "output": str(tmp_path / "out"), "poll_s": 1e-4}
        job.run_scale(ScaleConfig(**{**config, **options}))
        return cluster.started

    return run


@pytest.fixture
def table(tmp_path):
    def read():
        with (tmp_path / "out" / "results.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    return read


def statuses(rows):
    return {(row["point"], int(row["repeat"])): (row["status"], row["reason"]) for row in rows}


ROUND = ["1x1.rows", "1x1.tables", "1x2.rows", "1x2.tables"]
ALL = [f"{point}, repeat {number}" for number in (0, 1) for point in ROUND]


def test_repeats_alternate_over_the_points_and_the_table_has_a_row_a_figure(scale, table, tmp_path):
    assert scale(Cluster(speeds={ALL[2]: 300.0}), drawn=True) == ALL
    rows = table()
    assert {status for status, _ in statuses(rows).values()} == {"done"}
    mine = [row for row in rows if (row["point"], row["repeat"]) == ("1x2.rows", "0")]
    found = [(row["quantity"], row["part"], row["rank"], float(row["value"])) for row in mine]
    assert found == [
        ("samples_per_s", "", "", 300.0), ("step_ms", "", "", 5.0), ("step_ms", "p5", "", 4.0), ("step_ms", "p95", "", 6.0),
        ("stage_ms", "lookup", "", 2.0), ("stage_ms", "lookup", "0", 1.0), ("stage_ms", "lookup", "1", 2.0),
        ("busy_ms", "", "0", 1.0), ("busy_ms", "", "1", 2.0),
        ("bytes_sent", "all_to_all", "", 15.0), ("bytes_sent", "all_to_all", "0", 10.0),
        ("bytes_sent", "all_to_all", "1", 20.0),
        ("memory_bytes", "host", "0", 7.0), ("memory_bytes", "host", "1", 7.0),
    ]  # fmt: skip
    assert {(row["hosts"], row["ranks"], row["global_batch_size"], row["sharding"]) for row in mine} == {
        ("1", "2", "16", "rows")
    }
    same = pyarrow.parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert [row["value"] for row in same] == [float(row["value"]) for row in rows]
    assert same[0]["rank"] is None


def test_started_again_only_what_is_not_done_is_run(scale, table):
    reason = "rank 0 was killed by SIGKILL (out of memory?)"
    with pytest.raises(RepeatsFailed, match=r"1 repeat of 8 failed or did not run \(points 1x2.rows\)"):
        scale(Cluster({ALL[2]: Ended(reason)}))
    assert statuses(table())["1x2.rows", 0] == ("failed", reason)
    with pytest.raises(RepeatsFailed):
        assert scale(again := Cluster(), retry=False) == []
    assert again.started == []
    assert statuses(table())["1x2.rows", 0] == ("failed", reason)
    assert scale(Cluster()) == [ALL[2]]
    assert {status for status, _ in statuses(table()).values()} == {"done"}
    assert scale(Cluster()) == []


def test_what_would_fail_in_every_repeat_is_tried_once(scale, table):
    cluster = Cluster({ALL[0]: Ended("/nowhere: there is no such folder", final=True)})
    with pytest.raises(RepeatsFailed, match="2 repeats of 8"):
        scale(cluster)
    assert cluster.started == [name for name in ALL if name != ALL[4]]
    status, reason = statuses(table())["1x1.rows", 1]
    assert (status, reason) == (
        "missing",
        "not run: another repeat has failed for good: /nowhere: there is no such folder",
    )


def test_a_result_of_another_configuration_is_run_again_and_that_is_said(scale, capsys):
    scale(Cluster())
    capsys.readouterr()
    changed = TEXT.replace("sharding.types: row_wise}", "sharding.types: row_wise, steps: 9}")
    assert scale(Cluster(), changed) == [name for name in ALL if "rows" in name]
    assert capsys.readouterr().out.count("its result is of another configuration; it is run again") == 4


def test_more_points_and_repeats_can_be_added(scale):
    scale(Cluster())
    more = TEXT.replace("ranks: [1, 2]", "ranks: [1, 2, 4]")
    added = [f"1x4.{level}, repeat {number}" for number in (0, 1) for level in ("rows", "tables")]
    assert scale(Cluster(), more) == added
    assert scale(Cluster(), repeats=3) == [f"{point}, repeat 2" for point in ROUND]


def test_some_points_can_be_run_and_the_table_knows_of_all(scale, table):
    assert scale(Cluster(), only=("1x2.rows",)) == [ALL[2], ALL[6]]
    found = statuses(table())
    assert [key for key, (status, _) in found.items() if status == "done"] == [("1x2.rows", 0), ("1x2.rows", 1)]
    assert len(found) == 8
    assert found["1x1.rows", 0] == ("missing", "")


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_scheduler_has_as_many_jobs_at_once_as_it_is_told(scale, at_once):
    cluster = Cluster(takes=3)
    scale(cluster, scheduler="slurm", at_once=at_once)
    assert cluster.most_at_once == at_once
    assert sorted(cluster.started) == sorted(ALL)


@pytest.mark.parametrize(
    ("number", "error", "said"),
    [
        (signal.SIGINT, KeyboardInterrupt, None),
        (signal.SIGTERM, StoppedBySignal, "stopped by SIGTERM; started again, scale"),
    ],
)
def test_a_signal_stops_the_job_and_leaves_the_table_of_what_is_there(scale, table, number, error, said):
    cluster = Cluster(signals_at={ALL[1]: number})
    with pytest.raises(error, match=said):
        scale(cluster)
    assert cluster.under_way == set()
    assert [status for status, _ in statuses(table()).values()].count("missing") == 7
    assert statuses(table())["1x1.rows", 0] == ("done", "")
    assert scale(Cluster()) == ALL[1:]


def test_a_job_that_cannot_be_cancelled_is_not_forgotten(scale, capsys):
    with pytest.raises(KeyboardInterrupt):
        scale(Cluster(signals_at={ALL[0]: signal.SIGINT}, answers=False), scheduler="slurm")
    assert f"{ALL[0]}: could not be cancelled" in capsys.readouterr().out
    assert scale(Cluster(left={ALL[0]: True}), scheduler="slurm") == ALL[1:]


def test_a_job_that_an_earlier_start_has_left_to_a_scheduler_is_waited_for(scale, monkeypatch):
    def killed(self, agenda):
        raise MemoryError  # as good as a kill: nothing is written any more

    with monkeypatch.context() as patch:
        patch.setattr(runner.Runner, "_poll", killed)
        patch.setattr(runner.Runner, "_stop", lambda self, agenda: None)
        with pytest.raises(MemoryError):
            scale(Cluster(), scheduler="slurm")
    assert scale(Cluster(left={ALL[0]: True}), scheduler="slurm") == ALL[1:]


def test_a_job_that_was_killed_in_the_middle_is_run_again(scale, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(runner.Runner, "_poll", lambda self, agenda: 1 / 0)
        patch.setattr(runner.Runner, "_stop", lambda self, agenda: None)
        with pytest.raises(ZeroDivisionError):
            scale(Cluster())
    assert scale(Cluster()) == ALL


def test_predictions_stand_beside_what_is_measured(scale, table, monkeypatch):
    def predicted(config, experiment, points, display):
        return [
            Row(experiment.name, point.name, None, "done", "", point.hosts, point.ranks, point.global_batch_size,
                "predicted", "samples_per_s", "", None, 1000.0 * point.global_batch_size * point.ranks, 1.0, 2.0)
            for point in points
        ]  # fmt: skip

    monkeypatch.setattr(job, "_others", predicted)
    scale(Cluster())
    found = [row for row in table() if row["source"] == "predicted"]
    assert [(row["experiment"], row["point"], float(row["value"]), row["sharding"]) for row in found] == [
        ("small", "1x1.rows", 8000.0, "rows"), ("small", "1x1.tables", 8000.0, "tables"),
        ("small", "1x2.rows", 32000.0, "rows"), ("small", "1x2.tables", 32000.0, "tables"),
    ]  # fmt: skip


def test_a_dry_run_shows_the_points_and_makes_nothing(scale, capsys, tmp_path):
    assert scale(Cluster(), dry_run=True) == []
    shown = capsys.readouterr().out
    assert "small: 4 points" in shown
    assert all(name in shown for name in ROUND)
    assert not (tmp_path / "out").exists()


def test_where_it_cannot_run_it_says_so_before_the_first_job(scale, tmp_path, monkeypatch):
    cluster = Cluster()
    with pytest.raises(ConfigError, match=r"scheduler: local is one host, and 2x1\.rows needs several"):
        scale(cluster, TEXT.replace("ranks: [1, 2]", "hosts: [1, 2]"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"output: \S+ holds other things: name another folder"):
        scale(cluster)
    (tmp_path / "out" / "thesis.tex").unlink()
    scale(Cluster())
    with pytest.raises(ConfigError, match="holds the experiment small: name another folder"):
        scale(cluster, TEXT.replace("name: small", "name: other"))
    with (
        alone(tmp_path / "out" / ".lock"),
        pytest.raises(ConfigError, match="another scale works in"),
    ):
        scale(cluster)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SetupError, match="run it as a plain command, not under a launcher"):
        scale(cluster)
    assert cluster.started == []


@pytest.mark.parametrize(
    ("options", "said"),
    [({"at_once": 2}, "at_once is for a scheduler"), ({"scheduler_args": "partition=x"}, "are for a scheduler")],
)
def test_options_of_schedulers_are_refused_without_one(options, said):
    with pytest.raises(ValueError, match=said):
        ScaleConfig(experiment="x", **options)
