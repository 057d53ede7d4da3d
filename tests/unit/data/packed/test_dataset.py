"""Packed data from configuration to batches."""

import numpy as np
import pytest
import torch

from dlrm.config.data.packed import PackedData
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.data.packed.dataset import packed_dataset
from dlrm.errors import ConfigError, DataError
from tests.unit.data.packed.packed_files import HOTNESS, ROWS, record, write_days, write_manifest

SIZES = (50, 40, 31)


def dataset(folder, **options):
    return packed_dataset(PackedData(path=str(folder), **options))


def labels(source) -> list[float]:
    return source.read(torch.arange(source.num_samples)).labels_BT[:, 0].tolist()


def test_without_manifest_and_split_the_last_part_is_halved(tmp_path):
    parts = write_days(tmp_path, SIZES)
    data = dataset(tmp_path, rows=ROWS)
    assert labels(data.train) == [*parts[0].labels_M, *parts[1].labels_M]
    assert labels(data.validation) == [*parts[2].labels_M[:16]]
    assert labels(data.test) == [*parts[2].labels_M[16:]]


def test_a_manifests_own_split_is_taken_unless_another_is_configured(tmp_path):
    parts = write_days(tmp_path, SIZES)
    manifest = record(tmp_path, SIZES)
    own = {"train": manifest.split["test"], "validation": manifest.split["train"], "test": ()}
    write_manifest(tmp_path, manifest.model_copy(update={"split": own}))
    data = dataset(tmp_path)
    assert labels(data.train) == [*parts[2].labels_M[16:]]
    assert labels(data.validation) == [*parts[0].labels_M, *parts[1].labels_M]
    assert data.test.num_samples == 0
    data = dataset(tmp_path, split={"train": ["day_0"], "test": ["day_1[5:7]"]})
    assert labels(data.train) == [*parts[0].labels_M]
    assert labels(data.test) == [*parts[1].labels_M[5:7]]
    assert data.validation.num_samples == 0


def test_a_manifest_without_split_gets_the_default_one(tmp_path):
    write_days(tmp_path, SIZES)
    write_manifest(tmp_path, record(tmp_path, SIZES).model_copy(update={"split": {}}))
    assert dataset(tmp_path).train.num_samples == 90


def test_a_manifest_that_leaves_nothing_to_train_on_is_refused(tmp_path):
    write_days(tmp_path, SIZES)
    manifest = record(tmp_path, SIZES)
    write_manifest(tmp_path, manifest.model_copy(update={"split": {"test": manifest.split["test"]}}))
    with pytest.raises(
        ConfigError, match=r"data\.split\.train: is empty, in dataset\.json too: name parts to train on"
    ):
        dataset(tmp_path)


def test_multi_hot_ids_come_from_files_or_are_made(tmp_path):
    parts = write_days(tmp_path, SIZES, multi_hot=True)
    from_files = dataset(tmp_path, rows=ROWS, multi_hot={"kind": "files"})
    one_hot = dataset(tmp_path, rows=ROWS)
    made = dataset(tmp_path, rows=ROWS, multi_hot={"kind": "hashed", "hotness": HOTNESS})
    assert from_files.schema == made.schema
    assert [feature.hotness for feature in one_hot.schema.sparse] == [1, 1, 1]
    index_B = torch.arange(90)
    assert torch.equal(from_files.train.read(index_B).ids_BS[:50, 3:], torch.from_numpy(parts[0].multi_hot[2]))
    assert torch.equal(made.train.read(index_B).ids_BS[:, [0, 2, 3]], one_hot.train.read(index_B).ids_BS)


def test_the_policy_for_bad_rows_is_that_of_every_split_of_one_hot_and_multi_hot_data(tmp_path):
    write_days(tmp_path, SIZES)
    for options in ({}, {"multi_hot": {"kind": "hashed", "hotness": HOTNESS}}):
        data = dataset(tmp_path, rows=ROWS, bad_rows="clamp", **options)
        assert {split.bad_rows for split in (data.train, data.validation, data.test)} == {"clamp"}
    assert dataset(tmp_path, rows=ROWS).train.bad_rows == "error"


def batches(data, world_size=1, rank=0, **order):
    sample_order = SampleOrder(data.train.num_samples, global_batch_size=16, **order)
    loader = BatchLoader(data.train, sample_order, rank=rank, world_size=world_size)
    return list(loader.batches(0, 0, sample_order.num_batches))


@pytest.mark.parametrize("multi_hot", ["one_hot", "files"])
def test_batches_hold_the_rows_in_order(tmp_path, multi_hot):
    parts = write_days(tmp_path, SIZES, multi_hot=True)
    found = batches(dataset(tmp_path, rows=ROWS, multi_hot={"kind": multi_hot}))
    bags = [part.multi_hot if multi_hot == "files" else part.sparse_MF.T[..., None] for part in parts[:2]]
    for feature in range(3):
        right = np.concatenate([bags[0][feature], bags[1][feature]])
        ids = torch.cat([batch.sparse[f"cat_{feature}"].values() for batch in found])
        assert ids.tolist() == right.reshape(-1).tolist()
    dense = torch.cat([batch.dense for batch in found])
    np.testing.assert_array_equal(dense, np.concatenate([parts[0].dense_MN, parts[1].dense_MN]))


BAD_VALUES = [
    ("day_1_sparse.npy", (11, 1), -1, "day_1_sparse.npy, row 12, column cat_1: id -1 is outside of its table (0 .. 6)"),
    (
        "day_0_sparse.npy",
        (0, 0),
        100,
        "day_0_sparse.npy, row 1, column cat_0: id 100 is outside of its table (0 .. 99)",
    ),
    ("day_1_sparse.npy", (39, 2), 2**31 - 1, "day_1_sparse.npy, row 40, column cat_2: id 2147483647 is outside of"),
    ("day_1_dense.npy", (2, 0), np.nan, "day_1_dense.npy, row 3, column int_0: nan is not finite"),
    ("day_0_dense.npy", (49, 2), -np.inf, "day_0_dense.npy, row 50, column int_2: -inf is not finite"),
    ("day_1_labels.npy", (5, 0), 2, "day_1_labels.npy, row 6, column label: 2.0 is neither 0 nor 1"),
    ("day_1_labels.npy", (5, 0), -1, "day_1_labels.npy, row 6, column label: -1.0 is neither 0 nor 1"),
]


@pytest.mark.parametrize(("name", "place", "value", "expected"), BAD_VALUES)
def test_a_bad_value_is_one_line_that_names_file_row_and_column(tmp_path, name, place, value, expected):
    write_days(tmp_path, SIZES)
    array = np.load(tmp_path / name)
    array[place] = value
    np.save(tmp_path / name, array)
    with pytest.raises(DataError) as caught:
        batches(dataset(tmp_path, rows=ROWS), shuffle=True)
    assert str(caught.value).startswith(f"{tmp_path}/{expected}")
    assert str(caught.value).isprintable()
    assert caught.value.hint


def test_a_bad_multi_hot_id_names_its_archive_and_row(tmp_path):
    parts = write_days(tmp_path, SIZES, multi_hot=True)
    parts[1].multi_hot[2][7, 1] = 1000
    path = tmp_path / "day_1_sparse_multi_hot.npz"
    np.savez(path, **{str(i): bag for i, bag in enumerate(parts[1].multi_hot)})
    with pytest.raises(DataError) as caught:
        batches(dataset(tmp_path, rows=ROWS, multi_hot={"kind": "files"}))
    assert str(caught.value).startswith(f"{path}, row 8, column cat_2: id 1000 is outside of its table (0 .. 999); ")
