"""A training that begins with another run's weights, as commands."""

import json

from tests.support.command import run_command

SMALL = [
    *("--data.train_samples", "2000", "--data.validation_samples", "500", "--data.test_samples", "500"),
    *("--model.bottom_mlp", "16,8", "--model.embedding_dim", "8", "--model.top_mlp", "16,1"),
    *("--train.global_batch_size", "256", "--logging.every_steps", "1", "--logging.tensorboard", "false"),
    *("--preflight.enabled", "false"),
]


def test_a_run_begins_with_another_ones_weights_and_goes_on_from_its_own(tmp_path):
    words = ["train", *SMALL, f"--run.dir={tmp_path}"]
    (outcome,) = run_command([*words, "--data.rows", "100,50,20", "--run.name", "first"])
    assert outcome.exit_code == 0, outcome.stderr

    warm = [*words, "--run.name", "warm", "--data.rows", "150,50,20", "--optim.frozen", "bottom_mlp,cat_1"]
    warm += ["--warm_start.checkpoint", str(tmp_path / "first")]
    outcomes = run_command([*warm, "--train.max_steps", "4"], 2)
    assert [outcome.exit_code for outcome in outcomes] == [0, 0], outcomes[0].stderr
    said = outcomes[0].stdout
    assert "Carried over" in said
    assert "training begins at the first sample" in said
    (row,) = (line.split("│") for line in said.splitlines() if "cat_0" in line and "row number" in line)
    assert [cell.strip() for cell in row[2:5]] == ["100 rows", "50", "0"]
    first, second = (
        [json.loads(line)["loss"] for line in path.read_text().splitlines() if '"kind": "train"' in line]
        for path in (tmp_path / "first" / "metrics.jsonl", tmp_path / "warm" / "metrics.jsonl")
    )
    assert second[0] < first[0]

    (outcome,) = run_command([*warm, "--resume", "auto"])  # the warm start is over
    assert outcome.exit_code == 0, outcome.stderr
    assert "resumed from" in outcome.stdout
    assert "Carried over" not in outcome.stdout


def test_a_warm_start_that_does_not_fit_is_named_before_training(tmp_path):
    words = ["train", *SMALL, f"--run.dir={tmp_path}"]
    (outcome,) = run_command([*words, "--data.rows", "100,50,20", "--run.name", "first", "--train.max_steps", "1"])
    assert outcome.exit_code == 0, outcome.stderr
    other = [
        *words,
        "--data.rows",
        "100,50,20,10",
        "--run.name",
        "warm",
        "--warm_start.checkpoint",
        str(tmp_path / "first"),
    ]
    (outcome,) = run_command(other)
    assert outcome.exit_code == 2
    assert "top_mlp.linears.0.weight has shape" in outcome.stderr
    assert "--warm_start.strict false" in outcome.stderr
    assert not (tmp_path / "warm").exists()
    (outcome,) = run_command([*other, "--resume.checkpoint", str(tmp_path / "first")])
    assert outcome.exit_code == 2
    assert "both name what to begin with" in outcome.stderr
