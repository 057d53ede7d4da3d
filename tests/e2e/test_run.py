"""A whole run: what a person sees and what is left behind."""

import json

import pytest
import yaml

from tests.support.command import run_command

SMALL = [
    *("--data.train_samples", "4000", "--data.validation_samples", "1001", "--data.test_samples", "999"),
    *("--data.rows", "100,50,20,300", "--model.bottom_mlp", "16,8", "--model.embedding_dim", "8"),
    *("--model.top_mlp", "16,1", "--train.global_batch_size", "256", "--logging.every_steps", "1"),
    *("--optim.dense.lr", "0.01"),
]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_run_shows_its_plan_progress_and_scores_and_leaves_its_files(tmp_path, world_size):
    outcomes = run_command(["train", *SMALL, "run.name=small", f"run.dir={tmp_path}"], world_size)
    assert [outcome.exit_code for outcome in outcomes] == [0] * world_size
    assert all(outcome.stderr == "" for outcome in outcomes)
    assert all(outcome.stdout == "" for outcome in outcomes[1:])  # only rank 0 speaks
    for part in ("Sharding plan", "cat_3", "16/16 steps", "samples/s", "validation", "test", "best reachable", "GiB"):
        assert part in outcomes[0].stdout
    folder = tmp_path / "small"
    files = {path.name for path in folder.iterdir()}
    assert files >= {"config.yaml", "environment.json", "metrics.jsonl", "plan.txt", "summary.json", "report.html"}
    assert files >= {"curves.png", "tensorboard", "log"}
    assert {path.name for path in (folder / "log").iterdir()} == {f"rank{rank}.log" for rank in range(world_size)}

    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["steps"], summary["samples"], summary["ranks"]) == (16, 4000, world_size)
    assert (summary["validation"]["samples"], summary["test"]["samples"]) == (1001, 999)
    assert 0.5 < summary["test"]["auc"] < summary["best_reachable_auc"] < 1
    assert 0.5 < summary["validation"]["auc"] < 1

    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if entry["kind"] == "train"] == list(range(1, 17))
    assert yaml.safe_load((folder / "config.yaml").read_text())["run"]["name"] == "small"


def test_losses_recorded_on_two_ranks_are_those_of_one(tmp_path):
    losses = []
    for world_size in (1, 2):
        run_command(["train", *SMALL, f"run.name=w{world_size}", f"run.dir={tmp_path}"], world_size)
        lines = (tmp_path / f"w{world_size}" / "metrics.jsonl").read_text().splitlines()
        losses.append([entry["loss"] for entry in map(json.loads, lines) if entry["kind"] == "train"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_print_config_shows_what_results_and_trains_nothing(tmp_path):
    (outcome,) = run_command(["train", "--print-config", "train.epochs=7", f"run.dir={tmp_path / 'runs'}"])
    assert outcome.exit_code == 0
    assert yaml.safe_load(outcome.stdout)["train"]["epochs"] == 7
    assert not (tmp_path / "runs").exists()
