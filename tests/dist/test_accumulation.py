"""Gradient accumulation: a global batch in micro-batches, against float64 by hand, on one and two ranks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dlrm.config import load_config
from dlrm.schema import Schema
from tests.support.command import run_command
from tests.support.random_models import BagSource, RandomModel, assembled, train_model
from tests.support.ranks import run_ranks
from tests.support.training_by_hand import train_by_hand

SAMPLES, BATCH, PARTS = 55, 12, 3  # the last batch of an epoch has 7 samples: micro-batches of 4 and 3, one less
SMALL = [
    *("model.bottom_mlp=6,4", "model.top_mlp=6,1", "model.interaction.kind=cat", "model.embedding_dim=8"),
    f"train.global_batch_size={BATCH}",
    *("optim.dense.kind=sgd", "optim.dense.lr=0.1"),
]
SHARDINGS = ["table_wise", "row_wise", "column_wise", "data_parallel"]
IN_PARTS = f"train.accumulation_steps={PARTS}"


def model_of(ids_MS, rows, *options, ranks=1):
    """A model of one-hot features with these ids (samples by features)."""
    random = np.random.default_rng(3)
    source = BagSource(
        Schema.numbered(3, rows),
        dense_MN=torch.from_numpy(random.standard_normal((SAMPLES, 3)).astype(np.float32)),
        ids_MS=torch.from_numpy(ids_MS),
        lengths_MF=torch.ones(SAMPLES, len(rows), dtype=torch.int32),
        labels_MT=torch.from_numpy((random.random((SAMPLES, 1)) < 0.4).astype(np.float32)),
    )
    return RandomModel(0, ranks, ranks, load_config(None, [*SMALL, *options]), source)


def assert_trains_as(model, by_hand):
    results = run_ranks(train_model, model.ranks, model)
    losses, tensors = train_by_hand(by_hand)
    assert results[0].losses == pytest.approx(losses, rel=1e-6)
    found = assembled(results)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(found[name], tensor, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("ranks", "sharding"), [(1, "table_wise"), *((2, sharding) for sharding in SHARDINGS)])
def test_with_sgd_and_ids_that_occur_once_it_is_the_training_of_whole_batches(ranks, sharding):
    random = np.random.default_rng(1)
    ids_MS = np.stack([random.permutation(SAMPLES) for _ in range(2)], axis=1)
    options = ["optim.sparse.kind=sgd", "optim.sparse.lr=0.5", f"sharding.types={sharding}"]
    in_parts = model_of(ids_MS, [SAMPLES] * 2, *options, IN_PARTS, ranks=ranks)
    whole = model_of(ids_MS, [SAMPLES] * 2, *options)
    assert_trains_as(in_parts, whole)


@pytest.mark.parametrize(
    ("sparse", "sharding"),
    [
        ("sgd", "table_wise"),
        ("adagrad", "row_wise"),
        ("adagrad", "data_parallel"),
        ("rowwise_adagrad", "table_wise"),
        ("rowwise_adagrad", "column_wise"),
    ],
)
def test_tables_are_updated_after_each_micro_batch_and_the_rest_after_the_last(sparse, sharding):
    ids_MS = np.random.default_rng(1).integers(0, 7, (SAMPLES, 2))  # each row occurs in several micro-batches
    options = [f"optim.sparse.kind={sparse}", "optim.sparse.lr=0.05", f"sharding.types={sharding}", IN_PARTS]
    pipeline = "base" if sharding == "row_wise" else "sparse_dist"
    model = model_of(ids_MS, [7, 9], *options, f"train.pipeline={pipeline}", ranks=2)
    assert_trains_as(model, model)
    in_one = model.config.model_copy(update={"train": model.config.train.model_copy(update={"accumulation_steps": 1})})
    in_one_losses, _ = train_by_hand(replace(model, config=in_one))
    assert train_by_hand(model)[0][-1] != pytest.approx(in_one_losses[-1], rel=1e-5)


RUN = [
    "train",
    *("data.kind=random", "data.rows=7,50,300", "data.num_dense=3", "data.train_samples=330", "data.test_samples=90"),
    *("model.bottom_mlp=16,8", "model.embedding_dim=8", "model.top_mlp=16,8,1", "model.dropout=0.2"),
    *("train.global_batch_size=48", "train.accumulation_steps=4", "optim.clip_norm=0.05", "train.epochs=2"),
    *("logging.every_steps=1", "logging.tensorboard=false", "logging.progress=false"),
]


def run(folder, name, *options):
    """Losses by step and the test's scores; what was said."""
    outcomes = run_command([*RUN, f"run.dir={folder}", f"run.name={name}", *options], 3)
    assert [outcome.exit_code for outcome in outcomes] == [0] * 3, outcomes[0].stderr
    entries = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    losses = {entry["step"]: entry["loss"] for entry in entries if entry["kind"] == "train"}
    scores = [(entry["auc"], entry["log_loss"]) for entry in entries if entry["kind"] == "test"]
    return (losses, scores[-1]), outcomes[0].stdout


def test_a_stopped_and_resumed_run_equals_one_that_is_not_to_the_bit_and_says_what_it_trains(tmp_path):
    whole, said = run(tmp_path, "whole")
    assert "accumulation_steps 4: a step has 4 micro-batches of 12 samples" in said
    assert "with rowwise_adagrad is another training than a step with 48 samples at once" in said
    run(tmp_path, "parts", "train.max_steps=5")
    found, said = run(tmp_path, "parts", "--resume", "auto")
    assert found == whole
    assert len(whole[0]) == 14
    assert "changed since" not in said.replace("changed since: train.max_steps", "")
