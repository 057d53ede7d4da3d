"""Every model that can be trained can be exported, and answers as the trainer's does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import dlrm.inference.export.data
from dlrm.checkpoint.reader import open_reader
from dlrm.data.build import build_dataset
from dlrm.inference.export.dense_program import DensePart, export_dense
from dlrm.inference.export.onnx import write_onnx
from dlrm.inference.export.write import FolderWriter, new_export
from dlrm.inference.exported.predictor import open_predictor
from dlrm.inference.features import Features
from dlrm.schema import Schema, SparseFeature
from tests.support.exports import write_export
from tests.support.models import SMALL_MODELS
from tests.unit.inference.saved_models import random_features, save_model

DEEPFM = ["--model={kind: deepfm, embedding_dim: 8, deep_mlp: [16, 8]}"]
NO_DENSE = ["--data.num_dense=0", "--model={kind: dlrm, embedding_dim: 8, top_mlp: [16, 1]}"]
TASKS = ["--data.tasks=[click, like]", "--data.task_rates=[0.2]"]
OTHER_DIMS = ["--model.tables={cat_0: {embedding_dim: 4}, cat_3: {embedding_dim: 12, pooling: mean}}"]
SMALL = "ids_per_row: 3, min_rows: 7"
COMPRESSED = [
    "--model.shared_tables={both: [cat_1, cat_3]}",
    "--model.tables.cat_0.embedding={kind: hashed, rows: 11, functions: 2}",
    "--model.tables.both={embedding_dim: 6, embedding: {kind: frequency_capped, rows: 5, tail_rows: 2}}",
    f"--model.tables.cat_2.embedding={{kind: quotient_remainder, {SMALL}}}",
    "--model.tables.cat_4={pooling: mean, embedding: {kind: mixed_dim, dim: 3}}",
]
MODELS = {
    "dot": [],
    "dot with itself": ["--model.interaction.self_interaction=true"],
    "cat, tables of several dims": ["--model.interaction.kind=cat", *OTHER_DIMS],
    "dcn": ["--model.interaction={kind: dcn, layers: 2, rank: 4}"],
    "projection": ["--model.interaction={kind: projection, branch1: [16, 8], branch2: [16, 16]}"],
    "deepfm": DEEPFM,
    "deepfm without dense features": [*DEEPFM, "--data.num_dense=0"],
    "without dense features": NO_DENSE,
    "one table": ["--data.rows=[40]"],
    "two tasks": TASKS,
    "towers": [*TASKS, "--model.heads.tower=[4]"],
    "deepfm, towers": [*DEEPFM, *TASKS, "--model.heads.tower=[4]"],
    "compressed and shared tables": [*COMPRESSED, "--model.embedding_dim=6", "--model.bottom_mlp=16,6"],
    "concatenated halves": [f"--model.embedding={{kind: quotient_remainder, operation: concat, {SMALL}}}"],
    "mmoe": [*TASKS, "--model.heads={kind: mmoe, tower: [4]}"],
    "deepfm, ple": [*DEEPFM, *TASKS, "--model.heads={kind: ple}"],
    **{
        f"{kind}{name}": [f"--model={model}", *more]
        for kind, model in SMALL_MODELS.items()
        if kind != "deepfm"
        for name, more in ((", two tasks", TASKS), (" without dense features", ["--data.num_dense=0"]))
    },
    "attentive wukong": [f"--model={SMALL_MODELS['wukong']}", "--model.attention_mlp=5"],
    "dropout": ["--model.dropout=0.5"],
    "trained in bf16": ["--precision.dense=bf16"],
    "mean": ["--model.pooling=mean"],
}


QUICK = {"compressed and shared tables", "cat, tables of several dims", "deepfm, towers", "without dense features"}
QUICK |= {"wukong, two tasks"}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, marks=[] if name in QUICK else pytest.mark.slow, id=name)
        for name, options in MODELS.items()
    ],
)
def test_an_export_answers_as_the_trainers_model(options, tmp_path):
    saved = save_model(tmp_path, *options)
    with new_export(str(tmp_path / "e"), overwrite=False) as writer:
        write_export(open_reader(saved.path), writer)
    features = random_features(saved.schema, 70)
    predictor = open_predictor(tmp_path / "e")
    expected_BT = saved.logits(features)
    torch.testing.assert_close(predictor.logits(features), expected_BT, rtol=0, atol=1e-6)
    assert expected_BT.shape == (70, len(saved.schema.tasks))
    assert expected_BT.std() > 1e-3
    narrow = Features(features.dense_BN, features.ids_BS.int(), features.lengths_BF)
    assert torch.equal(predictor.logits(narrow), predictor.logits(features))


def test_columns_may_have_any_name_and_several_ids(tmp_path, monkeypatch):
    sparse = (SparseFeature("type", 9, 3), SparseFeature("user.id", 30, 2), SparseFeature("items", 7, 1))
    schema = Schema(("a.b", "forward", "self", "x y"), sparse, ("like",))
    mean = '--model.tables={"user.id": {"pooling": "mean"}}'
    saved = save_model(tmp_path, mean, schema=schema)

    def other_columns(config):
        dataset = build_dataset(config)
        return replace(dataset, train=_WithSchema(dataset.train, schema))

    monkeypatch.setattr(dlrm.inference.export.data, "build_dataset", other_columns)
    with new_export(str(tmp_path / "e"), overwrite=False) as writer:
        manifest = write_export(open_reader(saved.path), writer)
    features = random_features(schema, 100)
    assert (features.lengths_BF == 0).any()
    found_BT = open_predictor(tmp_path / "e").logits(features)
    torch.testing.assert_close(found_BT, saved.logits(features), rtol=0, atol=1e-6)
    assert [table.pooling for table in manifest.tables] == ["sum", "mean", "sum"]


class _WithSchema:
    """A source whose columns are called otherwise."""

    def __init__(self, source, schema):
        self._source, self.schema = source, schema

    def __getattr__(self, name):
        return getattr(self._source, name)


ONNX = [
    *("dot", "cat, tables of several dims", "dcn", "projection", "deepfm, towers", "without dense features"),
    *(f"{kind}, two tasks" for kind in SMALL_MODELS if kind != "deepfm"),
    *("attentive wukong", "wukong without dense features"),
]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "dot" else pytest.mark.slow) for name in ONNX])
def test_onnx_says_what_the_program_says_for_any_number_of_rows(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    saved = save_model(tmp_path, *MODELS[name])
    dense_features = len(saved.schema.dense)
    columns = sum(table.embedding_dim for table in saved.model.tables.embedding_bag_configs())
    program = export_dense(DensePart(saved.model), dense_features=dense_features, pooled_columns=columns)
    write_onnx(program, FolderWriter(tmp_path))
    session = onnxruntime.InferenceSession(tmp_path / "dense.onnx", providers=["CPUExecutionProvider"])
    inputs = {entry.name for entry in session.get_inputs()}
    for rows in (1, 3, 64):
        dense_BN, pooled_BX = torch.randn(rows, dense_features), torch.randn(rows, columns)
        given = {"dense": dense_BN.numpy(), "pooled": pooled_BX.numpy()}
        (found,) = session.run(["logits"], {name: value for name, value in given.items() if name in inputs})
        with torch.no_grad():
            expected_BT = program.module(check_guards=False)(dense_BN, pooled_BX)
        np.testing.assert_allclose(found, expected_BT.numpy(), rtol=0, atol=1e-5)
