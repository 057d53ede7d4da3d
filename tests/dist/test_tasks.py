"""A run with several tasks, some labels missing: the same on any ranks, resumed, and with scores of each task."""

import json

import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

from dlrm.config.data import PlantedData
from dlrm.data.synthetic.planted import PlantedSource
from tests.dist.test_same_training import MODEL_PARALLEL
from tests.support.command import run_command

DATA = (
    "data={kind: planted, tasks: [click, like, follow], task_rates: [0.2, 0.1], task_missing: 0.3, rows: [50, 30, 9],"
    " num_dense: 3, train_samples: 1010, validation_samples: 403, test_samples: 400}"
)
OPTIONS = [
    *("train", DATA, "model={bottom_mlp: [8, 4], embedding_dim: 4, top_mlp: [8, 1], heads: {tower: [4]}}"),
    *(
        "train.global_batch_size=100",
        "train.task_weights={like: 2.0}",
        "optim.lr_scale={heads: 0.5}",
        "optim.dense.lr=0.02",
    ),
    *("logging.every_steps=1", "logging.tensorboard=false", "logging.progress=false"),
]


def train(folder, name, world_size=1, *options):
    outcomes = run_command([*OPTIONS, f"run.dir={folder}", f"run.name={name}", *options], world_size)
    assert [outcome.exit_code for outcome in outcomes] == [0] * world_size, outcomes[0].stderr
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], outcomes[0].stdout


def figures(entries):
    names = ("loss", "auc", "log_loss", "samples", "positives")
    return [
        [
            entry["kind"],
            entry.get("task"),
            entry["step"],
            *(entry[name] for name in names if entry.get(name) is not None),
        ]
        for entry in entries
    ]


def assert_same(found, expected):
    assert_same_figures(figures(found), figures(expected))


def assert_same_figures(found, expected):
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    for row, right in zip(found, expected, strict=True):
        assert row[3:] == pytest.approx(right[3:], rel=1e-5)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_rank")
    return *train(folder, "whole", 1, "sharding.types=table_wise", "train.epochs=2"), folder


@pytest.mark.parametrize("sharding", [*MODEL_PARALLEL, "data_parallel"])
def test_losses_and_scores_do_not_depend_on_ranks_and_sharding(one_rank, tmp_path, sharding):
    found, _ = train(tmp_path, "other", 2, f"sharding.types={sharding}", "train.epochs=2")
    assert_same(found, one_rank[0])


def test_ranks_that_share_no_batch_evenly(one_rank, tmp_path):
    assert_same(train(tmp_path, "other", 3, "sharding.types=row_wise", "train.epochs=2")[0], one_rank[0])


def test_a_run_that_is_stopped_in_an_epoch_and_resumed_leaves_the_same_records(one_rank, tmp_path):
    train(tmp_path, "parts", 1, "sharding.types=table_wise", "train.epochs=2", "train.max_steps=7")
    found, _ = train(tmp_path, "parts", 1, "sharding.types=table_wise", "train.epochs=2", "--resume", "auto")
    timeless = [row for row in figures(found) if row[2] != 7 or row[0] == "train"]  # the first part ended with scores
    assert timeless == figures(one_rank[0])


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_run_from_a_checkpoint_between_two_records_has_the_records_of_the_whole(tmp_path, world_size):
    """To the bit; but a checkpoint holds the ranks' sums of losses as one, and three float64 add up in another order then.

    The last batch has 10 samples, which 3 ranks do not share evenly.
    """
    options = ("logging.every_steps=4", "sharding.types=row_wise")
    whole, _ = train(tmp_path, "whole", world_size, *options, "checkpoint.every_steps=6")
    saved = tmp_path / "whole" / "checkpoints" / "step_00000006"
    found, _ = train(tmp_path, "parts", world_size, *options, f"resume.checkpoint={saved}")
    later, of_whole = ([row for row in figures(entries) if row[2] > 6] for entries in (found, whole))
    if world_size == 2:
        assert later == of_whole
    assert [row[:3] for row in later] == [row[:3] for row in of_whole]
    for row, expected in zip(later, of_whole, strict=True):
        assert row[3:] == pytest.approx(expected[3:], rel=1e-14)
    assert [row[2] for row in later if row[0] == "train"] == [8] * 4 + [11] * 4


def test_every_task_has_its_records_scores_and_best_reachable_auc(one_rank):
    entries, said, folder = one_rank
    train_entries = [entry for entry in entries if entry["kind"] == "train" and entry["step"] == 5]
    assert [entry.get("task") for entry in train_entries] == [None, "click", "like", "follow"]
    total, click, like, follow = (entry["loss"] for entry in train_entries)
    assert total == pytest.approx(click + 2 * like + follow)
    summary = json.loads((folder / "whole" / "summary.json").read_text())
    assert list(summary["tasks"]) == ["click", "like", "follow"]
    assert summary["tasks"]["click"]["test"] == summary["test"]
    source = PlantedSource(
        PlantedData(**yaml.safe_load((folder / "whole" / "config.yaml").read_text())["data"]), "test"
    )
    index = torch.arange(400)
    labels, logits = source.read(index).labels_BT, source.true_logits(index)
    for t, (task, found) in enumerate(summary["tasks"].items()):
        there = ~labels[:, t].isnan()
        best = roc_auc_score(labels[there, t].numpy(), logits[there, t].float().numpy())
        assert found["best_reachable_auc"] == pytest.approx(best, abs=1e-12)
        assert found["test"]["samples"] == there.sum().item()
        assert f"test {task}: AUC {found['test']['auc']:.5f}" in said
        assert f"validation ({task})" in said
        assert f"best reachable (test) ({task})" in (folder / "whole" / "report.html").read_text()
    assert summary["tasks"]["like"]["test"]["samples"] < 400 == summary["test"]["samples"]


def test_a_weight_of_a_task_that_is_not_there_is_a_mistake(tmp_path):
    (outcome,) = run_command([*OPTIONS, f"run.dir={tmp_path}", "train.task_weights={share: 2.0}"])
    assert outcome.exit_code == 2
    assert "train.task_weights.share: is no task of the data, which have click, like, follow" in outcome.stderr
