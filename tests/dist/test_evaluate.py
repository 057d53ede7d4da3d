"""A checkpoint's figures on any ranks and shardings, against what training found and against one plain model."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.paths import open_one
from dlrm.checkpoint.tensors import GlobalTensor, weight_name
from dlrm.config.evaluate import EvaluateRequest
from dlrm.data.build import build_dataset
from dlrm.errors import DataError
from dlrm.inference.evaluate.found import find_together
from dlrm.inference.evaluate.job import evaluate
from dlrm.inference.evaluate.model import require_fit
from dlrm.memory import AVERAGE, COPIES, DENSE_STATE, TABLE_STATE, expected
from dlrm.models.build import build_model
from dlrm.run.console import Silent
from dlrm.schema import Schema, SparseFeature
from dlrm.table_names import table_of_weight
from dlrm.train.checkpointing.load import saved_config
from tests.support.command import run_command
from tests.support.ranks import run_ranks
from tests.support.training import this_world

TRAINED_ON = 2
SLICES = "cat_1,int_0,like,cat_2:length"
RUN = [
    *("--data.train_samples", "4000", "--data.validation_samples", "1001", "--data.test_samples", "999"),
    *(
        "--data.rows",
        "40,50,8,300",
        "--data.tasks",
        "click,like",
        "--data.task_missing",
        "0.2",
        "--data.num_dense",
        "3",
    ),
    *(
        "--model.bottom_mlp",
        "16,8",
        "--model.embedding_dim",
        "8",
        "--model.top_mlp",
        "16,1",
        "--optim.dense.lr",
        "0.01",
    ),
    *("--train.global_batch_size", "256", "--evaluation.global_batch_size", "200", "--logging.tensorboard", "false"),
    *("--sharding.types", "table_wise,row_wise", "--train.average_decay", "0.9"),
    *("--checkpoint.every_steps", "4", "--checkpoint.full_every", "4", "--checkpoint.keep", "9"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on two ranks whose newest checkpoint is a delta and holds averages."""
    folder = tmp_path_factory.mktemp("runs")
    outcomes = run_command(["train", *RUN, "--run.name", "r", "--run.dir", str(folder)], TRAINED_ON)
    assert [outcome.exit_code for outcome in outcomes] == [0, 0], outcomes
    return folder / "r"


def evaluated(rank, world_size, words):
    """The figures, and what this rank expects to take, by parts."""
    world = this_world()
    found = evaluate(find_together(EvaluateRequest.of(tuple(words)), world.collectives), world, Silent())
    return found.to_dict(), expected().parts


def evaluate_on(ranks, path, *words):
    results = run_ranks(evaluated, ranks, [f"--path={path}", *words])
    assert all(found == results[0][0] for found, _ in results)  # the same on every rank
    return results[0]


@pytest.fixture(scope="module")
def as_trained(run):
    """By split, on the ranks and the plan of training."""
    return {
        split: evaluate_on(TRAINED_ON, run, f"--split={split}", f"--slices={SLICES}")
        for split in ("validation", "test")
    }


@pytest.mark.parametrize("split", ["validation", "test"])
def test_on_the_same_ranks_and_plan_figures_are_those_of_training_to_the_bit(run, as_trained, split):
    summary = json.loads((run / "summary.json").read_text())
    found, _ = as_trained[split]
    assert (found["averaged"], found["step"], found["samples"]) == (True, 16, {"validation": 1001, "test": 999}[split])
    for task in ("click", "like"):
        assert found["tasks"][task] == summary["tasks"][task][split]
        if split == "test":
            assert found["best_reachable"][task]["auc"] == summary["tasks"][task]["best_reachable_auc"]


def test_nothing_is_kept_for_training(as_trained):
    _, parts = as_trained["test"]
    assert parts.keys().isdisjoint({TABLE_STATE, DENSE_STATE, AVERAGE, COPIES})


A, B, C, D = (SparseFeature(f"cat_{i}", rows) for i, rows in enumerate((40, 50, 8, 300)))
NUMBERS, TASKS = ("int_0", "int_1", "int_2"), ("click", "like")
UNFIT = {
    "rows": (
        Schema(NUMBERS, (A, B, C, replace(D, rows=301)), TASKS),
        "table cat_3 has 300 rows in the checkpoint, 301 by",
    ),
    "one more": (
        Schema(NUMBERS, (A, B, C, D, SparseFeature("e", 5)), TASKS),
        "the data have column e, the checkpoint",
    ),
    "one less": (Schema(NUMBERS, (A, B, C), TASKS), "the checkpoint has table cat_3, the data have no such column"),
    "order": (Schema(NUMBERS, (A, C, B, D), TASKS), "table 1 was cat_1 in training, cat_2 in the data; table 2 was"),
    "numbers": (
        Schema(NUMBERS[1:], (A, B, C, D), TASKS),
        "bottom_mlp.linears.0.weight is 16 x 3 in the",
    ),
    "tasks": (
        Schema(NUMBERS, (A, B, C, D), ("click",)),
        "top_mlp.linears.1.weight is 2 x 16 in the checkpoint, 1 x 16",
    ),
}


@pytest.mark.parametrize(("schema", "message"), UNFIT.values(), ids=UNFIT)
def test_data_with_other_columns_are_refused_with_what_differs(run, schema, message):
    checkpoint, _ = open_one(str(run))
    config = saved_config(checkpoint)
    require_fit(checkpoint, config, Schema(("other", "names", "x"), (A, B, C, D), TASKS), data="these")
    with pytest.raises(DataError, match=r"^these: does not fit") as error:
        require_fit(checkpoint, config, schema, data="these")
    assert message in str(error.value)


def plain_logits(path, split, *, averaged):
    """(samples, logits_BT) of a model without trainer, sharding or batches."""
    checkpoint, _ = open_one(str(path))
    config = saved_config(checkpoint)
    source = getattr(build_dataset(config.data), split)
    model = build_model(config.model, source.schema, seed=0, tables_device="cpu")
    tensors = []
    for name, weight in model.named_parameters():
        saved = weight_name(table_of_weight(name)) if name.startswith("tables.") else name
        tensors.append(GlobalTensor.of(f"average.{saved}" if averaged else saved, weight))
    load_tensors(checkpoint, tensors, part=True)
    samples = source.read(torch.arange(source.num_samples))
    names = [feature.name for feature in source.schema.sparse]
    ids = samples.ids_BS.t().reshape(-1)
    sparse = KeyedJaggedTensor(keys=names, values=ids, lengths=torch.ones(len(ids), dtype=torch.int32))
    with torch.no_grad():
        return samples, model.eval()(samples.dense_BN, sparse).double().numpy()


def assert_figures(found, y, x, *, abs_error=1e-5):
    """``found`` are the figures of labels ``y`` and logits ``x``, as far as float32 logits of another order agree."""
    p, rate = 1 / (1 + np.exp(-x)), y.mean(dtype=np.float64)
    assert (found["samples"], found["positives"]) == (len(y), int(y.sum()))
    assert found["log_loss"] == pytest.approx(log_loss(y, p, labels=[0, 1]), rel=1e-5)
    if 0 < rate < 1:
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
        assert found["auc"] == pytest.approx(roc_auc_score(y, x), abs=abs_error)
        assert found["average_precision"] == pytest.approx(average_precision_score(y, x), abs=1e-4)
        assert found["normalised_entropy"] == pytest.approx(log_loss(y, p) / entropy, rel=1e-5)
        assert found["calibration"] == pytest.approx(p.sum() / y.sum(), rel=1e-5)


def slice_masks(samples):
    """By (column, slice) which samples are in it, from the samples alone."""
    ids = samples.ids_BS[:, 1].numpy()
    values, counts = np.unique(ids, return_counts=True)
    frequent = [int(value) for _, value in sorted(zip(-counts, values, strict=True))[:10]]
    masks = {("cat_1", str(value)): ids == value for value in frequent}
    masks["cat_1", f"{len(values) - 10} others"] = ~np.isin(ids, frequent)
    dense = samples.dense_BN[:, 0].numpy()
    edges = np.unique(np.quantile(dense, np.arange(1, 10) / 10, method="inverted_cdf"))
    bucket = (dense[:, None] > edges).sum(1)
    named = [f"{edge:.4g}" for edge in edges]
    names = [f"<= {named[0]}", *(f"({a}, {b}]" for a, b in zip(named, named[1:], strict=False)), f"> {named[-1]}"]  # noqa: RUF007
    masks |= {("int_0", name): bucket == k for k, name in enumerate(names)}
    like = samples.labels_BT[:, 1].numpy()
    masks |= {("like", "0"): like == 0, ("like", "1"): like == 1, ("like", "missing"): np.isnan(like)}
    return {**masks, ("cat_2:length", "1"): np.ones(len(ids), dtype=bool)}


def assert_evaluation(found, samples, logits_BT):
    """Every figure of all samples and of every slice."""
    masks = slice_masks(samples)
    seen = set()
    labels_BT = samples.labels_BT.numpy()
    for t, task in enumerate(("click", "like")):
        there = ~np.isnan(labels_BT[:, t])
        assert_figures(found["tasks"][task], labels_BT[there, t], logits_BT[there, t])
        for one in (one for one in found["slices"] if one["task"] == task):
            key = (one["column"], one["slice"])
            inside = masks[key] & there
            assert_figures(one, labels_BT[inside, t], logits_BT[inside, t])
            assert one["share"] == inside.sum() / there.sum()
            seen.add(key)
    assert seen == {key for key, mask in masks.items() if mask.any()}


@pytest.fixture(scope="module")
def by_hand(run):
    return plain_logits(run, "test", averaged=True)


def test_all_figures_of_all_samples_and_slices_are_those_of_a_plain_model_by_hand(as_trained, by_hand):
    assert_evaluation(as_trained["test"][0], *by_hand)


@pytest.mark.parametrize(
    ("ranks", "types"),
    [
        (1, "table_wise"),
        (4, "row_wise"),
        pytest.param(2, "column_wise", marks=pytest.mark.slow),
        pytest.param(4, "data_parallel", marks=pytest.mark.slow),
        pytest.param(4, "table_wise,row_wise", marks=pytest.mark.slow),
    ],
)
def test_other_ranks_and_shardings_change_no_count_and_no_figure(run, as_trained, by_hand, ranks, types):
    words = (f"--slices={SLICES}", f"--sharding.types={types}", "--evaluation.global_batch_size=333")
    found, _ = evaluate_on(ranks, run, *words)
    assert_evaluation(found, *by_hand)
    order = [(one["column"], one["slice"], one["task"], one["samples"]) for one in as_trained["test"][0]["slices"]]
    assert [(one["column"], one["slice"], one["task"], one["samples"]) for one in found["slices"]] == order


def test_the_weights_themselves_and_an_older_full_checkpoint_can_be_scored(run):
    older = run / "checkpoints" / "step_00000008"
    found, _ = evaluate_on(1, older, "--average=false", "--split=validation", f"--slices={SLICES}")
    assert (found["averaged"], found["step"]) == (False, 8)
    assert_evaluation(found, *plain_logits(older, "validation", averaged=False))
