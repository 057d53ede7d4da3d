"""Labels of several tasks from files to batches: named, masked where missing, refused where wrong."""

import json

import numpy as np
import pytest
import torch

from dlrm.config import load_config
from dlrm.config.data import PackedData
from dlrm.data.batch import make_batch
from dlrm.data.build import build_dataset
from dlrm.data.check import SampleCheck
from dlrm.data.packed.dataset import packed_dataset
from dlrm.data.packed.folder import open_packed
from dlrm.data.packed.manifest import MANIFEST_NAME
from dlrm.errors import ConfigError, DataError
from dlrm.train.build import check_options
from tests.unit.data.packed.packed_files import ROWS, write_days
from tests.unit.data.parquet.parquet_files import columns, dataset, write

TASKS = ("click", "like", "follow")
LABELS = [[1, 0, -1], [0, -1, -1], [-1, 1, 0], [1, 1, 1]]
FLOATS = [[1.0, 0.0, None], [0.0, None, None], [None, 1.0, 0.0], [1.0, 1.0, 1.0]]


def packed(folder, labels=LABELS, *, manifest=False, **options):
    """The training source of four rows with these labels."""
    write_days(folder, (4, 2, 2), manifest=manifest)
    for day, rows in enumerate((labels, labels[:2], labels[:2])):
        np.save(folder / f"day_{day}_labels.npy", np.array(rows, np.int32))
    if manifest:
        found = json.loads((folder / MANIFEST_NAME).read_text())
        for part in found["parts"]:
            part["files"]["labels"]["bytes"] = (folder / part["files"]["labels"]["name"]).stat().st_size
        (folder / MANIFEST_NAME).write_text(json.dumps({**found, "tasks": TASKS}))
    given = {} if manifest else {"rows": list(ROWS), "tasks": TASKS}
    return packed_dataset(PackedData(path=str(folder), **{**given, **options})).train


def parquet(folder, labels=FLOATS):
    by_task = {task: [row[t] for row in labels] for t, task in enumerate(TASKS)}
    write(folder / "train.parquet", {**columns(4), **by_task})
    return dataset(folder, tasks=list(TASKS)).train


def batch_of(source):
    index_B = torch.arange(4)
    samples = SampleCheck(source)(source.read(index_B), index_B)
    return make_batch(samples, source.schema, size=5, global_samples=4, world_size=1)


@pytest.mark.parametrize("files", [packed, lambda folder: packed(folder, manifest=True), parquet])
def test_missing_labels_have_weight_0_and_the_others_are_as_stored(tmp_path, files):
    source = files(tmp_path)
    assert source.schema.tasks == TASKS
    batch = batch_of(source)
    assert batch.labels.tolist() == [[max(label, 0) for label in row] for row in LABELS] + [[0, 0, 0]]
    assert batch.weights.tolist() == [[float(label >= 0) for label in row] for row in LABELS] + [[0, 0, 0]]
    assert (batch.labels.dtype, batch.weights.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize(
    ("row", "column", "problem"),
    [
        ([1, 2, -1], "like", "2.0 is neither 0 nor 1"),
        ([-1, -1, -1], "click", "the label is missing (null or NaN)"),
        ([1, 0, -2], "follow", "-2.0 is neither 0 nor 1"),
    ],
)
def test_a_sample_without_any_label_and_a_label_that_is_none_are_refused_or_skipped(tmp_path, row, column, problem):
    source = packed(tmp_path, [LABELS[0], row, *LABELS[2:]])
    with pytest.raises(DataError) as refused:
        batch_of(source)
    assert f"day_0_labels.npy, row 2, column {column}: {problem}" in str(refused.value)
    source.bad_rows = "skip"
    check, index_B = SampleCheck(source), torch.arange(4)
    kept = check(source.read(index_B), index_B)
    assert kept.weights_B.tolist() == [1, 0, 1, 1]
    assert check.counts.by_column(check.counts.snapshot())[column] == 1
    weights_BT = make_batch(kept, source.schema, size=4, global_samples=4, world_size=1).weights
    assert weights_BT.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1]]


def test_labels_that_are_there_are_not_looked_at_twice(tmp_path):
    source, index_B = packed(tmp_path), torch.arange(4)
    samples = source.read(index_B)
    assert SampleCheck(source)(samples, index_B) is samples


def test_the_only_label_of_a_sample_may_not_be_missing(tmp_path):
    source = packed(tmp_path, [[1], [-1], [0], [1]], tasks=[])
    with pytest.raises(DataError, match=r"row 2, column label: -1\.0 is neither 0 nor 1"):
        batch_of(source)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "data.tasks: is needed, .*day_0_labels.npy has 3 columns: one a task"),
        (["click", "like"], "data.tasks: names 2, .*day_0_labels.npy has 3 columns: one a task"),
    ],
)
def test_every_column_of_labels_has_to_be_named(tmp_path, tasks, message):
    with pytest.raises(ConfigError, match=message):
        packed(tmp_path, tasks=tasks)


def test_names_in_the_manifest_are_not_given_to_other_columns(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.tasks: dataset\.json says click, like, follow: leave it out"):
        packed(tmp_path, manifest=True, tasks=["like", "click", "follow"])


def test_where_nobody_gives_names_columns_have_numbers(tmp_path):
    packed(tmp_path)
    assert open_packed(str(tmp_path), rows=ROWS).schema.tasks == ("label_0", "label_1", "label_2")


def test_a_task_is_not_called_as_a_feature_is():
    config = load_config(None, ["data.kind=random", "data.rows=5,7", "data.tasks=click,cat_1"])
    with pytest.raises(ConfigError, match=r"data\.tasks: cat_1 is the name of a feature, too"):
        check_options(config, build_dataset(config.data))


def test_parts_with_other_numbers_of_labels_are_refused(tmp_path):
    packed(tmp_path)
    np.save(tmp_path / "day_1_labels.npy", np.zeros((2, 1), np.int32))
    with pytest.raises(DataError, match=r"day_1_labels.npy: has 1 columns, .*day_0_labels.npy has 3"):
        packed_dataset(PackedData(path=str(tmp_path), rows=list(ROWS), tasks=TASKS))


@pytest.mark.parametrize("kind", ["planted", "random", "packed"])
def test_a_task_that_is_named_twice_is_a_mistake(kind):
    path = ["data.path=x"] if kind == "packed" else []
    with pytest.raises(ConfigError, match="task like is named twice"):
        load_config(None, [f"data.kind={kind}", *path, "data.tasks=like,click,like"])


def test_a_parquet_column_that_is_no_task_names_the_option(tmp_path):
    write(tmp_path / "train.parquet", columns(4))
    with pytest.raises(ConfigError, match=r"data.tasks: .*there is no column clik"):
        dataset(tmp_path, tasks=["label", "clik"])
