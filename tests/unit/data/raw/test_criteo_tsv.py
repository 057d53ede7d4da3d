import csv
import gzip
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dlrm.config.data import CriteoTsvData, Split
from dlrm.data.raw.criteo_tsv import SplitRows, criteo_tsv_dataset, split_rows
from dlrm.data.raw.layout import Layout
from dlrm.data.raw.raw_rows import MISSING_CATEGORY, MISSING_INTEGER
from dlrm.data.raw.tsv_parse import read_tsv
from dlrm.errors import ConfigError, DataError
from tests.unit.data.raw.tsv_files import line, write

REPOSITORY = Path(__file__).parents[3]
SAMPLE = Path(os.environ.get("CRITEO_SAMPLE", REPOSITORY.parent / "shared" / "data" / "criteo_kaggle_sample.tsv.gz"))


def dataset(paths, **options):
    options = {"num_dense": 2, "num_sparse": 3, "split": {"validation": 0, "test": 0}} | options
    return criteo_tsv_dataset(CriteoTsvData.model_validate({"paths": paths} | options))


def everything(source):
    return source.read(torch.arange(source.num_samples))


def numbered_lines(count: int) -> list[bytes]:
    """Rows that their first integer tells apart."""
    return [line(label=str(i % 2), integers=(str(i), "")) for i in range(count)]


def row_numbers(source) -> list[int]:
    return (everything(source).dense_BN[:, 0].double().exp() - 3).round().long().tolist()


def test_parts_follow_each_other_in_file_order_and_share_no_row(tmp_path):
    data = dataset(write(tmp_path, *numbered_lines(10)), split={"validation": 2, "test": 0.3})
    assert row_numbers(data.train) == [0, 1, 2, 3, 4]
    assert row_numbers(data.validation) == [5, 6]
    assert row_numbers(data.test) == [7, 8, 9]


@pytest.mark.parametrize(
    ("validation", "test", "rows", "expected"),
    [
        (0.1, 0.1, 109_711, SplitRows(87_769, 10_971, 10_971)),
        (10_971, 21_944, 109_711, SplitRows(76_796, 10_971, 21_944)),
        (0.1, 0.1, 9, SplitRows(9, 0, 0)),
        (0.29, 0.57, 100, SplitRows(14, 29, 57)),
        (1, 1, 3, SplitRows(1, 1, 1)),
        (0, 0, 1, SplitRows(1, 0, 0)),
    ],
)
def test_a_number_below_one_is_a_fraction_rounded_down_and_any_other_a_count(validation, test, rows, expected):
    assert split_rows(Split(validation=validation, test=test), rows) == expected


@pytest.mark.parametrize(("validation", "test", "key"), [(0, 10, "test"), (0, 99, "test"), (5, 0.5, "validation")])
def test_a_split_that_leaves_no_training_row_is_an_error(tmp_path, validation, test, key):
    with pytest.raises(ConfigError, match=f"data.split.{key}: .* of 10 rows leave none for training"):
        dataset(write(tmp_path, *numbered_lines(10)), split={"validation": validation, "test": test})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": {"test": 2.5}}, "test is 2.5: give a fraction below 1 or a whole number"),
        ({"split": {"test": 0.5, "validation": 0.5}}, "leave no rows for training"),
        ({"paths": []}, "is empty; give at least one value"),
        ({"paths": "a,,b"}, "paths holds an empty name"),
        ({"categories": {"kind": "hashing", "rows": "5,1"}}, "at least 2"),
        ({"categories": {"kind": "hashing", "rows": "5,7"}}, "rows has 2 entries, num_sparse is 26"),
        ({"categories": {"kind": "ids", "rows": []}}, "is empty; give at least one value"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(ValidationError, match=words):
        CriteoTsvData.model_validate({"paths": "day"} | options)


def test_samples_have_the_documented_types_and_come_in_the_order_asked_for(tmp_path):
    data = dataset(write(tmp_path, *numbered_lines(5)))
    samples = data.train.read(torch.tensor([4, 0, 4]))
    assert (samples.dense_BN.dtype, samples.dense_BN.shape) == (torch.float32, (3, 2))
    assert (samples.ids_BS.dtype, samples.ids_BS.shape) == (torch.int64, (3, 3))
    assert (samples.labels_BT[:, 0].dtype, samples.labels_BT[:, 0].tolist()) == (torch.float32, [0.0, 0.0, 0.0])
    assert samples.dense_BN[:, 0].tolist() == pytest.approx([math.log(7), math.log(3), math.log(7)])


def test_several_files_and_gzip_read_like_one_plain_file(tmp_path):
    lines = numbered_lines(10)
    whole = dataset(write(tmp_path, *lines, name="whole"))
    parts = dataset(
        [write(tmp_path, *lines[:3], name="a"), write(tmp_path, *lines[3:4], name="b.gz"), write(tmp_path, *lines[4:])]
    )
    assert parts.schema == whole.schema
    for name in ("dense_BN", "ids_BS", "labels_BT"):
        assert torch.equal(getattr(everything(parts.train), name), getattr(everything(whole.train), name))


def test_the_vocabulary_knows_the_training_rows_alone(tmp_path):
    train = [line(categories=(c, "", "7")) for c in ("bb", "aa", "bb", "cc", "")]
    unseen = [line(categories=("dd", "ee", "7"))] * 5  # frequent, but not in training
    data = dataset(write(tmp_path, *train, *unseen), split={"validation": 2, "test": 3})
    assert [feature.rows for feature in data.schema.sparse] == [2 + 3, 2, 2 + 1]
    assert everything(data.train).ids_BS.tolist() == [[2, 0, 2], [3, 0, 2], [2, 0, 2], [4, 0, 2], [0, 0, 2]]
    for source in (data.validation, data.test):
        assert everything(source).ids_BS.unique(dim=0).tolist() == [[1, 1, 2]]


def test_standardisation_knows_the_training_rows_alone(tmp_path):
    lines = [line(integers=(x, "4")) for x in ("0", "1", "5", "1000000", "")]
    split = {"validation": 1, "test": 1}
    data = dataset(write(tmp_path, *lines), split=split, dense={"standardise": True})
    logs = [math.log(3), math.log(4), math.log(8)]
    mean = sum(logs) / 3
    deviation = math.sqrt(sum((x - mean) ** 2 for x in logs) / 3)
    scaled = [(x - mean) / deviation for x in [*logs, math.log(1000003), math.log(3)]]
    seen = torch.cat([everything(source).dense_BN for source in (data.train, data.validation, data.test)])
    assert seen[:, 0].tolist() == pytest.approx(scaled, rel=1e-6)
    assert seen[:, 1].tolist() == pytest.approx([0.0] * 5, abs=1e-12)


def test_buckets_are_sparse_features_after_the_categories(tmp_path):
    lines = [line(integers=integers) for integers in (("3", ""), ("4", "7"), ("-1", "0"), ("5", "0"))]
    data = dataset(write(tmp_path, *lines), split={"validation": 0, "test": 1}, dense={"buckets": True})
    assert [f.name for f in data.schema.sparse] == ["cat_0", "cat_1", "cat_2", "int_0_bucket", "int_1_bucket"]
    assert data.schema.dense == ("int_0", "int_1")
    assert [feature.rows for feature in data.schema.sparse[3:]] == [2 + 2, 2 + 2]  # missing, unseen, two buckets each
    assert everything(data.train).ids_BS[:, 3:].tolist() == [[2, 0], [2, 3], [3, 2]]
    assert everything(data.test).ids_BS[:, 3:].tolist() == [[1, 2]]


def test_rare_buckets_share_the_row_of_unseen_ones(tmp_path):
    lines = [line(integers=(x, "1")) for x in ("3", "4", "9", "3")]
    dense = {"buckets": True, "bucket_min_count": 2}
    data = dataset(write(tmp_path, *lines), split={"validation": 0, "test": 0}, dense=dense)
    assert everything(data.train).ids_BS[:, 3].tolist() == [2, 2, 1, 2]


def test_hashed_categories_fill_tables_of_the_size_asked_for(tmp_path):
    path = write(tmp_path, line(categories=("a", "a", "")), line(categories=("b", "", "1")))
    data = dataset(path, categories={"kind": "hashing", "rows": "50,60,70"})
    assert [f.rows for f in data.schema.sparse] == [50, 60, 70]
    ids = everything(data.train).ids_BS
    assert ((ids == 0) == torch.tensor([[False, False, True], [False, True, False]])).all()
    assert (ids < torch.tensor([50, 60, 70])).all()


def test_ids_are_taken_as_they_are(tmp_path):
    path = write(tmp_path, line(categories=("9", "0", "3")))
    data = dataset(path, categories={"kind": "ids", "rows": 10})
    assert [f.rows for f in data.schema.sparse] == [10, 10, 10]
    assert everything(data.train).ids_BS.tolist() == [[9, 0, 3]]
    with pytest.raises(DataError, match=r"row 1, column cat_0: is '9', outside of its table's ids 0 \.\. 8"):
        dataset(path, categories={"kind": "ids", "rows": 9})


def test_ids_beyond_32_bits_are_kept(tmp_path):
    path = write(tmp_path, line(categories=("4294967297", "0", "3")))
    data = dataset(path, categories={"kind": "ids", "rows": 2**33})
    assert everything(data.train).ids_BS.tolist() == [[4294967297, 0, 3]]


@pytest.mark.criteo
@pytest.mark.skipif(
    not SAMPLE.exists(), reason=f"needs the Criteo Kaggle sample; CRITEO_SAMPLE names it, not at {SAMPLE}"
)
def test_the_real_sample_reads_as_a_csv_reader_reads_it():
    rows = read_tsv([str(SAMPLE)], Layout(num_dense=13, num_sparse=26))
    assert len(rows) == 109_711
    assert rows.labels_M.mean() == pytest.approx(0.2567, abs=5e-5)
    with gzip.open(SAMPLE, "rt", newline="") as file:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        head = [fields for fields, _ in zip(reader, range(2000), strict=False)]
    assert rows.labels_M[:2000].tolist() == [int(fields[0]) for fields in head]
    for i in range(13):
        by_hand = [int(fields[1 + i]) if fields[1 + i] else MISSING_INTEGER for fields in head]
        assert rows.integers_NM[i, :2000].tolist() == by_hand
    for i in range(26):
        by_hand = [int(fields[14 + i], 16) if fields[14 + i] else MISSING_CATEGORY for fields in head]
        assert rows.categories_FM[i, :2000].tolist() == by_hand


@pytest.mark.criteo
@pytest.mark.skipif(
    not SAMPLE.exists(), reason=f"needs the Criteo Kaggle sample; CRITEO_SAMPLE names it, not at {SAMPLE}"
)
def test_the_real_sample_becomes_a_dataset():
    data = criteo_tsv_dataset(CriteoTsvData(paths=(str(SAMPLE),)))
    assert (data.train.num_samples, data.validation.num_samples, data.test.num_samples) == (87_769, 10_971, 10_971)
    samples = everything(data.train)
    assert samples.dense_BN.isfinite().all()
    assert (samples.ids_BS.amax(0) < torch.tensor([f.rows for f in data.schema.sparse])).all()
    counts = [np.bincount(column) for column in samples.ids_BS.T.numpy()]
    assert all((np.diff(count[2:]) <= 0).all() for count in counts)  # ids by descending count
    assert Counter(samples.labels_BT[:, 0].tolist()).keys() == {0.0, 1.0}
