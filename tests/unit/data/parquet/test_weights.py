"""Weights of samples and of ids, read from Parquet columns."""

import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from dlrm.data.batch import make_batch
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.errors import ConfigError, DataError
from tests.unit.data.parquet.parquet_files import dataset, write

BAGS = [[3, 1], None, [7], []]
WEIGHTS = [[0.5, 2.0], [], [0.25], None]
OPTIONS = {"sparse": ["bag", "one"], "rows": [10, 10], "hotness": [3, 1], "dense": []}
WEIGHTED = {**OPTIONS, "sample_weight": "w", "id_weights": {"bag": "bag_w"}}


def columns(**others):
    return {"label": [0, 1, 0, 1], "bag": BAGS, "one": [1, 2, 3, 4], "w": [1, 0.5, 0, 3], "bag_w": WEIGHTS} | others


def written(folder, **others):
    write(folder / "train.parquet", columns(**others), row_group_size=2)
    return folder


def batch_of(source, size=4):
    order = SampleOrder(source.num_samples, global_batch_size=size)
    return BatchLoader(source, order).batch(0, 0)


def test_samples_and_ids_have_their_weights_and_ids_without_any_weigh_1(tmp_path):
    source = dataset(written(tmp_path), **WEIGHTED).train
    batch = batch_of(source)
    assert batch.weights.tolist() == [[1], [0.5], [0], [3]]
    bags = [bag.tolist() for bag in batch.sparse["bag"].to_dense()]
    assert bags == [[3, 1], [], [7], []]
    jagged = batch.sparse["bag"]
    starts = jagged.offsets().tolist()
    weights = [jagged.weights()[start:stop].tolist() for start, stop in pairwise(starts)]
    assert weights == [[0.5, 2.0], [], [0.25], []]
    assert batch.sparse["one"].weights().tolist() == [1, 1, 1, 1]
    assert batch.sparse.weights().dtype == torch.float32
    mixed = source.read(torch.tensor([2, 0]))
    assert mixed.weights_B.tolist() == [0, 1]
    assert mixed.id_weights_BS.tolist() == [[0.25, 0, 0, 1], [0.5, 2, 0, 1]]
    padded = make_batch(mixed, source.schema, size=3, global_samples=2, world_size=1)
    assert padded.weights.tolist() == [[0], [1], [0]]
    assert padded.sparse.weights().tolist() == [0.25, 0.5, 2, 1, 1]


def test_without_the_options_no_batch_has_weights(tmp_path):
    batch = batch_of(dataset(written(tmp_path), **OPTIONS).train)
    assert batch.sparse.weights_or_none() is None
    assert batch.weights.tolist() == [[1]] * 4


def test_one_id_a_row_has_one_weight_a_row(tmp_path):
    options = {**OPTIONS, "id_weights": {"one": "w"}}
    batch = batch_of(dataset(written(tmp_path), **options).train)
    assert batch.sparse["one"].weights().tolist() == [1, 0.5, 0, 3]
    assert batch.sparse["bag"].weights().tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "values", "row", "said"),
    [
        ("w", [1, -0.5, 1, 1], 2, "the weight -0.5 is negative"),
        ("w", [1, 1, None, 1], 3, r"the weight is missing \(null or NaN\)"),
        ("w", [1, 1, 1, math.nan], 4, r"the weight is missing \(null or NaN\)"),
        ("w", [math.inf, 1, 1, 1], 1, "the weight inf is infinite"),
        ("bag_w", [[1, 1], [], [-1], []], 3, "the weight -1 is negative"),
        ("bag_w", [[1, None], [], [1], []], 1, r"the weight is missing \(null or NaN\)"),
        ("bag_w", [[1, 1], [], [1, 1], []], 3, "has 2 weights for the 1 ids of bag"),
        ("bag_w", [[1, 1], [], None, []], 3, "has 0 weights for the 1 ids of bag"),
    ],
)
def test_a_weight_that_is_none_is_named_or_its_sample_skipped(tmp_path, name, values, row, said):
    folder = written(tmp_path, **{name: values})
    with pytest.raises(DataError, match=said) as error:
        batch_of(dataset(folder, **WEIGHTED).train)
    assert (error.value.path, error.value.row, error.value.column) == (str(tmp_path / "train.parquet"), row, name)
    source = dataset(folder, **WEIGHTED, bad_rows="skip").train
    loader = BatchLoader(source, SampleOrder(4, global_batch_size=4))
    batch = loader.batch(0, 0)
    expected = list(values) if name == "w" else [1, 0.5, 0, 3]
    expected[row - 1] = 0
    assert batch.weights.flatten().tolist() == expected
    assert batch.sparse.lengths().view(2, 4)[:, row - 1].tolist() == [0, 0]
    assert batch.sparse.weights().isfinite().all()
    column = "w" if name == "w" else "bag (weights)"
    assert loader.bad_values.by_column(loader.bad_values.snapshot()) == {column: 1, "skipped samples": 1}


def test_lists_that_are_too_long_are_skipped_with_their_weights(tmp_path):
    long = {"bag": [[1, 2, 3, 4], [5], [6, 7], []], "bag_w": [[1, 1, 1, 1], [0.5], [2, 3], []]}
    batch = batch_of(dataset(written(tmp_path, **long), **WEIGHTED, bad_rows="skip").train)
    assert batch.sparse["bag"].values().tolist() == [5, 6, 7]
    assert batch.sparse["bag"].weights().tolist() == [0.5, 2, 3]


def test_a_column_of_nulls_gives_no_weights_where_there_are_no_ids(tmp_path):
    nothing = {"bag": pa.nulls(4), "bag_w": pa.nulls(4)}
    batch = batch_of(dataset(written(tmp_path, **nothing), **WEIGHTED).train)
    assert batch.sparse["bag"].weights().tolist() == []


@pytest.mark.parametrize(
    ("others", "options", "said"),
    [
        ({}, {"sample_weight": "weigth"}, "data.sample_weight.*no column weigth"),
        ({"w": ["a"] * 4}, {"sample_weight": "w"}, "data.sample_weight.*text"),
        ({}, {"id_weights": {"bag": "w"}}, "data.id_weights.*w is double, but bag is list.*both hold lists"),
        ({"bag_w": [["a", "b"], [], ["c"], []]}, {"id_weights": {"bag": "bag_w"}}, "data.id_weights.*not numbers"),
    ],
)
def test_columns_that_hold_no_weights_are_refused_before_training(tmp_path, others, options, said):
    with pytest.raises(ConfigError, match=said):
        dataset(written(tmp_path, **others), **OPTIONS, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"id_weights": {"x": "w"}}, "id_weights names x"), ({"sample_weight": "one"}, "column one is named as weights")],
)
def test_weights_of_nothing_and_columns_with_two_meanings_are_mistakes(tmp_path, options, said):
    with pytest.raises(ValidationError, match=said):
        dataset(tmp_path, **OPTIONS, **options)


def test_random_bags_come_back_with_their_weights_whatever_the_order(tmp_path):
    random = np.random.default_rng(1)
    bags = [random.integers(0, 10, random.integers(0, 4)).tolist() for _ in range(50)]
    weights = [random.random(len(bag)).astype(np.float32).tolist() for bag in bags]
    values = {"label": [0] * 50, "bag": bags, "one": [1] * 50, "w": [1.0] * 50, "bag_w": weights}
    write(tmp_path / "train.parquet", values, row_group_size=7)
    order = random.permutation(50)
    samples = dataset(tmp_path, **WEIGHTED).train.read(torch.from_numpy(order))
    for at, number in enumerate(order):
        length = samples.lengths_BF[at, 0]
        assert samples.id_weights_BS[at, :length].tolist() == pytest.approx(weights[number])
        assert samples.ids_BS[at, :length].tolist() == bags[number]
