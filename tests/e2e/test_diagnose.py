"""``diagnose`` and the look that training begins with, as commands."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.command import run_command

MODEL = [
    "--model.bottom_mlp",
    "8,4",
    "--model.top_mlp",
    "8,1",
    "--model.embedding_dim",
    "4",
    "--logging.tensorboard",
    "false",
]


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    """Packed files without a manifest: numbers, ids, and labels that int_1 tells."""
    folder, rng = tmp_path_factory.mktemp("packed"), np.random.default_rng(0)
    for part, rows in (("day_0", 4000), ("day_1", 1000)):
        labels_M1 = (rng.random((rows, 1)) < 0.3).astype(np.int32)
        dense_MN = rng.normal(size=(rows, 3)).astype(np.float32)
        dense_MN[:, 1] += 4 * labels_M1[:, 0]
        np.save(folder / f"{part}_dense.npy", dense_MN)
        np.save(folder / f"{part}_sparse.npy", rng.integers(0, 10, (rows, 2)).astype(np.int32))
        np.save(folder / f"{part}_labels.npy", labels_M1)
    return ["--data.kind", "packed", "--data.path", str(folder), "--data.rows", "10", "--data.split.train", "day_0",
            "--data.split.validation", "day_1[:500]", "--data.split.test", "day_1[500:]"]  # fmt: skip


def test_a_run_tells_what_is_wrong_with_its_data_and_diagnose_tells_it_again(tmp_path, leaking):
    words = [*leaking, *MODEL, "--train.global_batch_size", "400", f"--run.dir={tmp_path}"]
    outcomes = run_command(["train", *words], 2)
    assert [outcome.exit_code for outcome in outcomes] == [0, 0]
    assert "warning: int_1 alone tells the training labels" in outcomes[0].stdout
    assert outcomes[1].stdout == ""

    output = tmp_path / "found.json"
    (outcome,) = run_command(["diagnose", str(tmp_path / "run"), "--output", str(output)])
    assert outcome.exit_code == 0, outcome.stderr
    assert "warning: int_1 alone tells the training labels" in outcome.stdout
    found = json.loads(output.read_text())
    assert [one["cause"] for one in found["findings"]] == ["leaking_feature"]
    assert [overlap["found"] for overlap in found["overlaps"]] == [0, 0]

    (outcome,) = run_command(["train", *words, "--preflight.enabled", "false", "--train.max_steps", "1"])
    assert outcome.exit_code == 0
    assert "int_1" not in outcome.stdout


def test_diagnose_needs_data_or_a_run(tmp_path):
    (outcome,) = run_command(["diagnose", str(tmp_path / "nothing")])
    assert outcome.exit_code == 2
    assert "nothing is no run's folder: there is no config.yaml in it" in outcome.stderr
    (outcome,) = run_command(["diagnose", "--data.train_samples", "3000", "--data.validation_samples", "2000"])
    assert outcome.exit_code == 0, outcome.stderr
    assert "looked at 3,000 of 3,000 training samples" in outcome.stdout
    assert "nothing was found" in outcome.stdout


def test_a_sample_that_training_refuses_is_told_once_and_leaves_no_run(tmp_path):
    weights = [1.0] * 199 + [-1.0]
    columns = {"label": [0, 1] * 100, "x": [0.5] * 200, "bag": [1, 2, 3, 4] * 50, "w": weights}
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "data" / "train_0.parquet")
    words = [
        "--data.kind",
        "parquet",
        "--data.path",
        str(tmp_path / "data"),
        "--data.dense",
        "x",
        "--data.sparse",
        "bag",
    ]
    words += ["--data.rows", "9", "--data.sample_weight", "w", "--train.global_batch_size", "20", *MODEL]
    (outcome,) = run_command(["train", *words, f"--run.dir={tmp_path / 'runs'}"])
    assert outcome.exit_code == 2
    assert (outcome.stdout + outcome.stderr).count("the weight -1 is negative") == 1
    assert not (tmp_path / "runs").exists()
