"""Experiments that are predicted, and not run: by a calibration, and on GPUs that are not there."""

import csv

import pytest

from tests.support.command import run_command
from tests.support.machines import calibration

SMALL = """
name: small
description: what is predicted
batch: weak
samples_per_rank: 64
ranks: [1, 2, 16]
ranks_per_host: 8
repeats: 2
published: {published}
options:
  data: {{kind: random, train_samples: 4096, rows: [100, 50], hotness: [2, 1]}}
  model: {{embedding_dim: 8, bottom_mlp: [16, 8], top_mlp: [16, 1]}}
"""


def scale(tmp_path, *words, published="false"):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.format(published=published))
    (outcome,) = run_command(["scale", str(path), "--output", str(tmp_path / "out"), *words])
    return outcome


def rows_of(tmp_path):
    with (tmp_path / "out" / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_point_is_predicted_beside_what_is_published_and_none_is_run(tmp_path):
    outcome = scale(tmp_path, "--device", "H100", "--predict_only", "true", published="true")
    assert outcome.exit_code == 0, outcome.stderr
    assert "3 points predicted, none is run" in outcome.stdout
    rows = rows_of(tmp_path)
    predicted = [row for row in rows if row["source"] == "predicted"]
    assert {row["point"] for row in predicted} == {"1x1", "1x2", "2x8"}
    for point, ranks in (("1x1", 1), ("1x2", 2), ("2x8", 16)):
        of_point = [row for row in predicted if row["point"] == point]
        (step,) = [row for row in of_point if row["quantity"] == "step_ms"]
        stages = [float(row["value"]) for row in of_point if row["quantity"] == "stage_ms"]
        assert sum(stages) == pytest.approx(float(step["value"]))
        assert 0 < float(step["low"]) < float(step["value"]) < float(step["high"])
        (speed,) = [row for row in of_point if row["quantity"] == "samples_per_s"]
        assert float(speed["value"]) == pytest.approx(64 * ranks / float(step["value"]) * 1e3)
        assert sum(row["quantity"] == "busy_ms" for row in of_point) == ranks
    assert any(row["source"] == "published" and row["ranks"] == "128" for row in rows)
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    assert not (tmp_path / "out" / "points" / "1x1" / "repeat_0" / "benchmark.json").exists()


def test_a_calibration_predicts_and_what_cannot_be_predicted_is_said(tmp_path):
    calibration().write(tmp_path / "machine.json")
    outcome = scale(tmp_path, "--machine", str(tmp_path / "machine.json"), "--predict_only", "true")
    assert outcome.exit_code == 0, outcome.stderr
    assert {row["point"] for row in rows_of(tmp_path) if row["source"] == "predicted"} == {"1x1", "1x2", "2x8"}
    (tmp_path / "small.yaml").unlink()
    refused = scale(tmp_path, "--device", "Voodoo", "--predict_only", "true")
    assert refused.exit_code == 0
    assert "1x1 is not predicted: nothing is known of the device 'Voodoo'" in refused.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--predict_only", "true"], "set machine or device"),
        (["--network", "infiniband_ndr"], "set device, too"),
        (["--machine", "a", "--device", "H100"], "give one of them"),
        (["--machine", "none.json"], "cannot be read"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, said):
    outcome = scale(tmp_path, *words, "--only", "1x1")
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
