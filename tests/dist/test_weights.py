"""Weights of samples and of ids train as computed by hand, on any number of ranks under every sharding type (law 2)."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from dlrm.config import load_config
from dlrm.config.data import PlantedData
from dlrm.data.synthetic.planted import PlantedSource
from tests.support.command import run_command
from tests.support.random_models import RandomModel, assembled, random_model, train_model, weighted
from tests.support.ranks import run_ranks
from tests.support.training_by_hand import train_by_hand

SEEDS = {  # sharding type: models with tables that are averaged and tables that are summed, one of each optimizer
    "table_wise": 53,
    "row_wise": 44,
    "table_row_wise": 14,
    "grid_shard": 6,
    "column_wise": 30,
    "data_parallel": 45,
}


def models(world_size: int) -> list[RandomModel]:
    found = []
    for kind, seed in SEEDS.items():
        model = weighted(random_model(seed))
        sharding = load_config(None, [f"sharding.types={kind}", "sharding.min_column_width=4"]).sharding
        found.append(replace(model, ranks=world_size, config=model.config.model_copy(update={"sharding": sharding})))
    return found


def train(rank: int, world_size: int):
    return [train_model(rank, world_size, model) for model in models(world_size)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_weights_train_as_computed_by_hand_on_any_ranks_under_every_sharding_type(world_size):
    by_rank = run_ranks(train, world_size)
    for (kind, _), model, *results in zip(SEEDS.items(), models(world_size), *by_rank, strict=True):
        if world_size > 1:
            assert set(results[0].sharding) == {kind}
        losses, tensors = train_by_hand(model)
        assert results[0].losses == pytest.approx(losses, rel=1e-5)
        found = assembled(results)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            np.testing.assert_allclose(found[name], tensor, atol=1e-5, err_msg=f"{name}, {kind}")


DATA = {"rows": [50, 30, 9], "num_dense": 3, "train_samples": 1010, "validation_samples": 403, "test_samples": 400}
OPTIONS = [
    *("train", f"data={ {'kind': 'planted', 'sample_weights': True, **DATA} }", "evaluation.weighted=true"),
    *(
        "model.bottom_mlp=[8,4]",
        "model.embedding_dim=4",
        "model.top_mlp=[8,1]",
        "train.global_batch_size=100",
        "train.epochs=2",
    ),
    *("logging.every_steps=1", "logging.tensorboard=false", "logging.progress=false", "sharding.types=row_wise"),
]
FIGURES = ("loss", "auc", "log_loss", "normalised_entropy", "calibration", "samples", "weight")


def run(folder, name, world_size, *options):
    outcomes = run_command([*OPTIONS, f"run.dir={folder}", f"run.name={name}", *options], world_size)
    assert [outcome.exit_code for outcome in outcomes] == [0] * world_size, outcomes[0].stderr
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [
        [entry["kind"], entry["step"], *(entry[key] for key in FIGURES if key in entry)]
        for entry in map(json.loads, lines)
    ], json.loads((folder / name / "summary.json").read_text())


def test_a_run_with_weights_is_the_same_on_any_ranks_and_resumed_and_its_figures_are_weighted(tmp_path):
    expected, summary = run(tmp_path, "one", 1)
    for ranks in (2, 3):
        found, _ = run(tmp_path, f"on_{ranks}", ranks)
        assert [row[:2] for row in found] == [row[:2] for row in expected]
        for row, right in zip(found, expected, strict=True):
            assert row[2:] == pytest.approx(right[2:], rel=1e-5)
    run(tmp_path, "parts", 1, "train.max_steps=7")
    found, _ = run(tmp_path, "parts", 1, "--resume", "auto")
    assert [row for row in found if row[1] != 7 or row[0] == "train"] == expected
    source = PlantedSource(PlantedData(sample_weights=True, **DATA), "test")
    samples, logits = source.read(torch.arange(400)), source.true_logits(torch.arange(400))[:, 0]
    labels, weights = samples.labels_BT[:, 0].numpy(), samples.weights_B.numpy()
    best = roc_auc_score(labels, logits.float().numpy(), sample_weight=weights)
    assert summary["best_reachable_auc"] == pytest.approx(best, abs=1e-12)
    best_loss = log_loss(labels, logits.sigmoid().numpy(), sample_weight=weights)
    assert summary["best_reachable_log_loss"] == pytest.approx(best_loss, rel=1e-6)
    assert summary["test"]["weight"] == pytest.approx(weights.sum())
    (outcome,) = run_command(["evaluate", str(tmp_path / "one"), "--output", str(tmp_path / "found.json")])
    assert outcome.exit_code == 0, outcome.stderr
    evaluated = json.loads((tmp_path / "found.json").read_text())["tasks"]["label"]
    assert evaluated == pytest.approx(summary["test"], rel=1e-9)


def test_weighted_figures_of_samples_without_weights_are_a_mistake(tmp_path):
    (outcome,) = run_command([*OPTIONS, f"run.dir={tmp_path}", "data.sample_weights=false"])
    assert outcome.exit_code == 2
    assert "evaluation.weighted: is true, but the data have no weights of samples" in outcome.stderr
