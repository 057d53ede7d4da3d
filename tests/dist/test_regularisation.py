"""Decay of looked-up rows, initial accumulators, experts, smoothed labels and learned weights of tasks: one training.

On 1, 2 and 4 ranks, under every sharding type: with one task against float64 by hand, with several each against the others.
"""

import json

import pytest

from dlrm.config import load_config
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.train.engine import build_engine
from dlrm.train.standard_hooks import STALLED
from tests.dist.test_same_training import MODEL_PARALLEL
from tests.dist.test_tasks import DATA, figures
from tests.support.command import run_command
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source
from tests.unit.optim.test_training import trained_by_hand

SAMPLES, STEPS, BATCH = 95, 12, 8  # the last batch has 7 samples
ONE_TASK = [
    "model={embedding_dim: 8, bottom_mlp: [8, 8], top_mlp: [8, 1], embedding_init_bound: 0.5}",
    *(f"train.global_batch_size={BATCH}", "optim.embedding_decay=0.5"),
    "optim.dense={kind: adagrad, lr: 0.1, eps: 1e-4, initial_accumulator: 0.05}",
]
KINDS = [
    f"optim.sparse={{kind: {kind}, lr: 0.2, initial_accumulator: 0.01}}" for kind in ("adagrad", "rowwise_adagrad")
]
SEVERAL = [
    *("train", DATA, "model={bottom_mlp: [8, 8], embedding_dim: 8, top_mlp: [8, 6, 1], dropout: 0.2}"),
    *("model.heads={kind: ple, tower: [4]}", "optim.lr_scale={heads: 0.5, task_weighting: 3}"),
    *("train.global_batch_size=100", "train.epochs=2", "train.reset_tables_each_epoch=true"),
    *("train.task_weighting=uncertainty", "train.label_smoothing=0.1"),
    *("optim.dense={kind: adamw, lr: 0.02}", "optim.embedding_decay=0.01", "optim.sparse.initial_accumulator=0.01"),
    "optim.schedule={kind: cosine, warmup_steps: 2, decay_start_step: 4, decay_steps: 15}",
    *("logging.every_steps=1", "logging.tensorboard=false", "logging.progress=false"),
]


def losses_of_all(rank, world_size, configs):
    return [losses_of(rank, world_size, config) for config in configs]


def losses_of(rank, world_size, config):
    world = this_world()
    engine = build_engine(config, tiny_source(1).schema, world)
    order = SampleOrder(SAMPLES, global_batch_size=BATCH)
    batches = BatchLoader(tiny_source(SAMPLES), order, rank=rank, world_size=world_size).batches(0, 0, STEPS)
    losses = [output.loss.double() / world_size for output in engine.stepper.train(batches, first_step=1)]
    for loss in losses:
        world.collectives.all_reduce_sum_(loss)
    return [loss.item() for loss in losses]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_sharding_type_trains_as_float64_by_hand(world_size):
    types = [*MODEL_PARALLEL, "data_parallel"]
    configs = [load_config(None, [*ONE_TASK, kind, f"sharding.types={type_}"]) for kind in KINDS for type_ in types]
    by_hand = [trained_by_hand(load_config(None, [*ONE_TASK, kind]), "adagrad", SAMPLES, STEPS)[2] for kind in KINDS]
    expected = [losses for losses in by_hand for _ in types]
    for rank, found in enumerate(run_ranks(losses_of_all, world_size, configs)):
        for config, losses, right in zip(configs, found, expected, strict=True):
            assert losses == pytest.approx(right, rel=1e-5), (rank, config.optim.sparse.kind, config.sharding.types)


def train(folder, name, world_size, *options):
    outcomes = run_command([*SEVERAL, f"run.dir={folder}", f"run.name={name}", *options], world_size)
    assert [outcome.exit_code for outcome in outcomes] == [0] * world_size, outcomes[0].stderr
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], outcomes[0].stdout


def losses_in(entries):
    return [entry.get("loss") or entry["log_loss"] for entry in entries]


def weights(entries):
    return [(entry["step"], entry["task"], entry["weight"]) for entry in entries if "weight" in entry]


def test_experts_and_learned_weights_train_alike_on_any_ranks_and_after_a_stop(tmp_path):
    whole, said = train(tmp_path, "whole", 1, "sharding.types=table_wise")
    learned = weights(whole)
    assert len(learned) == 3 * 22
    assert len({round(weight, 4) for *_, weight in learned}) > 50  # they are learned, each for itself
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["task_weights"] == pytest.approx({task: weight for _, task, weight in learned[-3:]})
    assert f"learned weights of the tasks' losses: click {learned[-3][2]:.4g}" in said
    for world_size, sharding in ((2, "row_wise"), (3, "column_wise")):
        found, _ = train(tmp_path, sharding, world_size, f"sharding.types={sharding}")
        assert losses_in(found) == pytest.approx(losses_in(whole), rel=2e-5)
        for one, right in zip(weights(found), learned, strict=True):
            assert one[:2] == right[:2]
            assert one[2] == pytest.approx(right[2], rel=1e-5)
    train(tmp_path, "parts", 1, "sharding.types=table_wise", "train.max_steps=7")
    found, _ = train(tmp_path, "parts", 1, "sharding.types=table_wise", "--resume", "auto")
    assert weights(found) == learned
    assert [row for row in figures(found) if row[2] != 7 or row[0] == "train"] == figures(whole)


def test_what_cannot_be_right_is_refused_before_training(tmp_path):
    several_ids = "data={kind: random, rows: [9, 9], hotness: [1, 3], num_dense: 2, train_samples: 100}"
    cases = [
        (
            ["optim.embedding_decay=0.1", several_ids],
            "optim.embedding_decay: decays rows that are looked up alone, and cat_1",
        ),
        (["train.task_weighting=uncertainty"], "train.task_weighting: is uncertainty, which weighs several tasks"),
    ]
    for options, words in cases:
        (outcome,) = run_command(["train", *options, f"run.dir={tmp_path}"])
        assert outcome.exit_code == 2
        assert words in outcome.stderr


def test_training_stops_two_evaluations_after_the_best_one_which_is_kept(tmp_path):
    data = "data={kind: planted, rows: [300, 200], num_dense: 3, train_samples: 600, validation_samples: 400}"
    options = [
        *(
            "train",
            data,
            "model={bottom_mlp: [8, 8], embedding_dim: 8, top_mlp: [16, 1]}",
            "train.global_batch_size=100",
        ),
        *("train.epochs=40", "evaluation.patience=2", "checkpoint.best=log_loss", "optim.sparse.lr=0.5"),
        *("logging.tensorboard=false", "logging.progress=false", f"run.dir={tmp_path}", "run.name=early"),
    ]
    outcomes = run_command(options, 2)
    assert [outcome.exit_code for outcome in outcomes] == [0, 0], outcomes[0].stderr
    lines = [json.loads(line) for line in (tmp_path / "early" / "metrics.jsonl").read_text().splitlines()]
    found = [(line["log_loss"], line["step"]) for line in lines if line["kind"] == "validation"]
    summary = json.loads((tmp_path / "early" / "summary.json").read_text())
    assert summary["stopped"] == STALLED
    assert 3 <= len(found) < 40
    best = min(found)
    assert found.index(best) == len(found) - 3
    assert (tmp_path / "early" / "checkpoints" / f"step_{best[1]:08}").is_dir()
    (resumed,) = run_command([*options, "--resume", "auto"], 1)
    assert resumed.exit_code == 0
    assert json.loads((tmp_path / "early" / "summary.json").read_text())["steps"] == summary["steps"]
