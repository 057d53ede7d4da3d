"""``bench-inference`` as a person runs it."""

import json

import pytest

from dlrm.config.bench_inference import BenchInferenceConfig
from dlrm.inference.benchmark import job
from dlrm.inference.benchmark.measure import measure
from tests.support.command import run_command

SHORT = ["--seconds", "0.02", "--confirm_seconds", "0.05", "--tolerance", "0.5", "--bound_ms", "5000", "--threads", "1"]


def test_it_measures_shows_and_writes(tiny_export, tmp_path):
    output = tmp_path / "out"
    options = ["--batch_rows", "8", "--models", "1,2", "--rounds", "1", "--given", "raw", "--output", str(output)]
    (outcome,) = run_command(["bench-inference", str(tiny_export), *SHORT, *options])
    assert outcome.exit_code == 0, outcome.stderr
    for said in (
        "2/2 batches of 8 rows, 1 thread, 2 models, raw rows: ",
        "what models that share the threads cost each other:",
        "the plain way (the trainer's model, one request after the other",
        "best within a p99 of 5000 ms: batches of 8 rows, 1 thread",
        f"files in {output}/",
    ):
        assert said in outcome.stdout
    assert sorted(path.name for path in output.iterdir()) == [
        "picture.png", "points.csv", "points.parquet", "results.json",
    ]  # fmt: skip
    found = json.loads((output / "results.json").read_text())
    assert found["complete"]
    assert len(found["points"]) == 2
    assert len(found["comparison"]["ratios"]) == 1
    for point in found["points"]:
        assert point["bounded"]["within"] >= 0.99
        assert point["bounded"]["requests"] == point["bounded"]["answered"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--threads", "64000"], "threads: 64,000 threads cannot have a CPU each"),
        (["--output", "EXPORT"], "is the folder of an export: name another"),
        (["--data", "nowhere.jsonl"], "data: nowhere.jsonl cannot be read"),
        (["--request_rows", "20000"], "larger than max_queue_rows"),
    ],
)
def test_what_cannot_be_measured_is_a_line(tiny_export, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    options = [str(tiny_export) if word == "EXPORT" else word for word in options]
    (outcome,) = run_command(["bench-inference", str(tiny_export), *options])
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    (line,) = outcome.stderr.strip().splitlines()
    assert said in line


def test_what_is_no_export_is_a_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (outcome,) = run_command(["bench-inference", str(tmp_path)])
    assert outcome.exit_code == 2
    assert "is no export: it has no manifest.json" in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_what_was_measured(tiny_export, tmp_path, monkeypatch, capsys):
    measured = []

    def interrupted_later(point, *rest):
        if measured:
            raise KeyboardInterrupt
        measured.append(measure(point, *rest))
        return measured[0]

    monkeypatch.setattr(job, "measure", interrupted_later)
    config = BenchInferenceConfig(
        exports=(str(tiny_export),), output=str(tmp_path / "out"), seconds=0.02, confirm_seconds=0.02, tolerance=0.5,
        bound_ms=2000, threads=1, models=1,
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        job.run_bench_inference(config)
    assert "interrupted: this is what was measured so far" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not found["complete"]
    assert len(found["points"]) == 1
    assert (tmp_path / "out" / "picture.png").exists()
