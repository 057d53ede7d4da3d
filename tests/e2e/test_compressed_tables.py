"""A run with compressed, shared and padded tables, from training through a stop and deltas to answers."""

import json
import os
import re

import pytest
import torch
from sklearn.metrics import roc_auc_score

from dlrm.checkpoint.reader import open_reader
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.inference.exported.predictor import open_predictor
from dlrm.inference.features import Features
from tests.support.command import run_command
from tests.support.exports import TINY, TrainersModel, dataset_of, newest_checkpoint

OPTIONS = [
    "--model.embedding_dim=6",
    "--model.bottom_mlp=16,6",
    "--model.embedding={kind: mixed_dim, temperature: 0.4}",
    "--model.shared_tables={both: [cat_1, cat_4]}",
    "--model.tables.both.embedding={kind: full}",
    "--model.tables.cat_2.embedding={kind: quotient_remainder, min_rows: 50}",
    "--model.tables.cat_0.embedding={kind: hashed, ids_per_row: 4}",
    "--sharding.types=column_wise",
    "--sharding.min_column_width=4",
    "--train.average_decay=0.9",
    "--checkpoint={every_steps: 2, full_every: 4, keep: 10}",
    "--optim.sparse={kind: rowwise_adagrad, lr: 0.1}",
]


def run(*words, world_size=1):
    outcomes = run_command([*words], world_size)
    assert [outcome.exit_code for outcome in outcomes] == [0] * world_size, outcomes[0].stderr
    return outcomes[0].stdout


def test_scores(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return json.loads(next(line for line in lines if '"kind": "test"' in line))


test_scores.__test__ = False


@pytest.mark.slow
def test_a_run_goes_on_after_a_stop_and_its_export_scores_as_it_did(tmp_path):
    train = ["train", *TINY, *OPTIONS, f"--run.dir={tmp_path}"]
    run(*train, "--run.name=whole")
    run(*train, "--run.name=parts", "--train.max_steps=5")
    run(*train, "--run.name=parts", "--resume=auto", world_size=2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert test_scores(parts)["auc"] == pytest.approx(test_scores(whole)["auc"], abs=1e-6)

    stored = open_reader(open_checkpoint(os.fspath(newest_checkpoint(whole)))).tensors
    shapes = {name: tensor.shape for name, tensor in stored.items() if name.startswith("tables.") and "weight" in name}
    assert shapes == {
        "tables.cat_0.weight": (10, 6),
        "tables.both.weight": (7, 6),
        "tables.cat_2_quotient.weight": (4, 6),
        "tables.cat_2_remainder.weight": (75, 6),
        "tables.cat_3.weight": (20, 4),
    }
    run("evaluate", str(newest_checkpoint(whole)), f"--output={tmp_path / 'scores.json'}")
    found = [float(auc) for auc in re.findall(r'"auc": ([0-9.]+)', (tmp_path / "scores.json").read_text())]
    assert found[:1] == [test_scores(whole)["auc"]]
    run("export", str(newest_checkpoint(whole)), str(tmp_path / "e"))
    predictor, samples = open_predictor(tmp_path / "e"), dataset_of(whole).test.read(torch.arange(2048))
    logits_BT = predictor.logits(Features.of(samples))
    trainers = TrainersModel(whole, prefix="average.").logits(samples)
    torch.testing.assert_close(logits_BT, trainers, rtol=0, atol=1e-6)
    auc = roc_auc_score(samples.labels_BT[:, 0], logits_BT[:, 0])
    assert auc == pytest.approx(test_scores(whole)["auc"], abs=1e-6)
