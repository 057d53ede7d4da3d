"""Rows that are numbers and ids already become what they are in generated data and in Parquet files."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dlrm.config.data import PlantedData, RandomData
from dlrm.data.build import build_dataset
from dlrm.errors import DataError
from dlrm.inference.raw import preprocessing_of
from tests.unit.data.parquet import parquet_files
from tests.unit.inference.raw.forms import all_forms, assert_same, reloaded, trained_on

COUNT = 40


def rows_of(samples, schema) -> list[dict]:
    """Samples as rows of JSON values; bags as long as they are."""
    lengths = samples.lengths_BF
    rows = []
    for b in range(len(samples)):
        row = dict(zip(schema.dense, samples.dense_BN[b].tolist(), strict=True))
        at = 0
        for f, feature in enumerate(schema.sparse):
            bag = samples.ids_BS[b, at : at + feature.hotness].tolist()
            count = feature.hotness if lengths is None else int(lengths[b, f])
            row[feature.name] = bag[:count] if feature.hotness > 1 else bag[0]
            at += feature.hotness
        rows.append(row)
    return rows


@pytest.mark.parametrize(
    "config",
    [
        PlantedData(train_samples=COUNT, rows=(7, 100, 1)),
        RandomData(train_samples=COUNT, rows=(7,), num_dense=0, tasks=("click", "like")),
        RandomData(train_samples=COUNT, rows=(50, 60), dense="normal"),
        RandomData(train_samples=COUNT, rows=(50, 60, 9), hotness=(3, 1, 2)),
        RandomData(train_samples=COUNT, rows=(50, 60, 9), hotness=(3, 1, 2), random_hotness=True, num_dense=1),
    ],
    ids=["planted", "tasks without dense", "random", "bags", "bags of any length"],
)
def test_generated_samples_given_as_rows_are_themselves(config):
    dataset = build_dataset(config)
    preprocessing = reloaded(preprocessing_of(config, dataset))
    assert preprocessing.schema == dataset.schema
    expected = trained_on(dataset.train)
    for features in all_forms(preprocessing, rows_of(expected, dataset.schema)).values():
        assert_same(features, expected, dataset.schema)
    example = preprocessing.example()
    assert set(example) == {column.name for column in preprocessing.columns}
    assert len(preprocessing.from_json([example])) == 1


def parquet_case(folder, table, **options):
    """Data set and preprocessing of a Parquet file of this table."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "train.parquet", row_group_size=3)
    config = parquet_files.config(folder, **options)
    dataset = build_dataset(config)
    return dataset, reloaded(preprocessing_of(config, dataset))


LISTS = {
    "label": [0, 1, 0, 1, 0],
    "x": [0.5, None, -3.25, 1e30, 16777217.0],
    "n": [1, 2, None, 2**53 + 1, 2**62 + 12345],
    "bag": [[1, 2], [], None, [9], [0, 0]],
    "one": [3, 0, 9, 1, 1],
}


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Numbers with nulls and lists of ids, as they are in a Parquet file."""
    table = pa.table(LISTS)
    options = {"dense": ["x", "n"], "dense_missing": -1.5, "sparse": ["bag", "one"], "rows": [10], "hotness": [2, 1]}
    dataset, preprocessing = parquet_case(tmp_path_factory.mktemp("lists"), table, **options)
    return dataset, preprocessing, table


def test_parquet_rows_with_nulls_and_lists_are_what_they_were_in_training(lists):
    dataset, preprocessing, table = lists
    expected = trained_on(dataset.train)
    assert_same(preprocessing.from_arrow(table), expected, dataset.schema)
    rows = [{name: LISTS[name][i] for name in LISTS if name != "label"} for i in range(5)]
    types = {"n": pa.int64(), "bag": pa.list_(pa.int32())}
    for features in all_forms(preprocessing, rows, types).values():
        assert_same(features, expected, dataset.schema)
    without_nulls = [{name: value for name, value in row.items() if value is not None} for row in rows]
    assert_same(preprocessing.from_json(without_nulls), expected, dataset.schema)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("bag", pa.large_list(pa.uint64())),
        ("bag", pa.list_(pa.float32())),
        ("bag", pa.list_(pa.decimal128(19, 0))),
        ("one", pa.uint8()),
        ("one", pa.float64()),
        ("one", pa.dictionary(pa.int8(), pa.int64())),
        ("one", pa.decimal128(21, 2)),
        ("x", pa.float32()),
        ("x", pa.dictionary(pa.int8(), pa.float64())),
    ],
    ids=str,
)
def test_any_type_that_holds_the_same_values_will_do(lists, column, kind):
    _, preprocessing, table = lists
    expected = preprocessing.from_arrow(table)
    values = table[column].combine_chunks()
    changed = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    changed = table.set_column(table.column_names.index(column), column, changed)
    assert_same(preprocessing.from_arrow(changed), expected, preprocessing.schema)


@pytest.mark.parametrize("bad_rows", ["hash", "clamp"])
def test_ids_outside_of_their_tables_are_mended_as_in_training(tmp_path, bad_rows):
    ids = [0, 9, 10, -7, 2**40 + 3, None, 2**62, 5]
    bags = [[1], [12, 5], [], None, [-1, 2**33], [9, 10], [3], [None, 4]]
    table = pa.table({"label": [0, 1] * 4, "x": [1.0] * 8, "one": ids, "bag": bags})
    options = {"sparse": ["one", "bag"], "rows": [10, 7], "hotness": [1, 2], "bad_rows": bad_rows}
    dataset, preprocessing = parquet_case(tmp_path, table, **options)
    expected = trained_on(dataset.train)
    rows = [{"x": 1.0, "one": one, "bag": bag} for one, bag in zip(ids, bags, strict=True)]
    for features in all_forms(preprocessing, rows).values():
        assert_same(features, expected, dataset.schema)


@pytest.mark.parametrize("bad_rows", ["hash", "clamp"])
def test_unsigned_ids_beyond_int64_are_mended_as_in_training(tmp_path, bad_rows):
    ids = [2**63, 2**64 - 1, 2**63 + 5, 3]
    table = pa.table({"label": [0, 1] * 2, "x": [1.0] * 4, "one": pa.array(ids, pa.uint64())})
    dataset, preprocessing = parquet_case(tmp_path, table, sparse=["one"], rows=[10], bad_rows=bad_rows)
    expected = trained_on(dataset.train)
    assert_same(preprocessing.from_arrow(table), expected, dataset.schema)
    assert_same(preprocessing.from_json([{"x": 1.0, "one": one} for one in ids]), expected, dataset.schema)


def test_tables_beyond_int32_keep_their_ids(tmp_path):
    ids = [2**31, 0, 2**33 - 1]
    table = pa.table({"label": [0, 1, 0], "x": [0.0] * 3, "one": ids})
    dataset, preprocessing = parquet_case(tmp_path, table, sparse=["one"], rows=[2**33])
    for features in all_forms(preprocessing, [{"x": 0.0, "one": one} for one in ids]).values():
        assert features.ids_BS.dtype == torch.int64
        assert_same(features, trained_on(dataset.train), dataset.schema)


def changed(table, column, values):
    return table.set_column(table.column_names.index(column), column, pa.array(values))


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("one", [3, 0, 10, 1, 1], r"t, row 3, column one: id 10 is outside of its table \(0 \.\. 9\)"),
        ("one", [3, None, 1, 1, 1], r"t, row 2, column one: the id is missing \(or -1\), outside"),
        ("one", [3, 0.5, 1, 1, 1], "t, row 2, column one: id 0.5 is not whole"),
        ("one", ["a"] * 5, r"t: column one is text \(string\), not ids"),
        ("one", [[1]] * 5, "t, column one: is list<item: int64>, where the model takes one id a row"),
        ("bag", [1] * 5, "t: column bag holds one id a row"),
        ("bag", [[1, 2, 3], [], [], [], []], "t, row 1, column bag: has 3 ids, more than hotness 2"),
        ("bag", [[], [], [], [], [4, -3]], "t, row 5, column bag: id -3 is outside"),
        ("x", [1e39, 0, 0, 0, 0], "t, row 1, column x: inf is not finite in float32"),
        ("x", ["1"] * 5, r"t: column x is text \(string\), not numbers"),
    ],
)
def test_what_a_table_must_not_hold_is_named_by_row_and_column(lists, column, values, words):
    _, preprocessing, table = lists
    with pytest.raises(DataError, match=words):
        preprocessing.from_arrow(changed(table, column, values), name="t")


def test_a_column_that_is_not_there_or_there_twice_is_named(lists):
    _, preprocessing, table = lists
    with pytest.raises(DataError, match=r"there is no column bag; did you mean bags\?"):
        preprocessing.from_arrow(table.rename_columns(["label", "x", "n", "bags", "one"]))
    with pytest.raises(DataError, match="there are 2 columns one"):
        preprocessing.from_arrow(table.append_column("one", table["one"]))


def test_a_table_with_offsets_beyond_its_values_is_refused(lists):
    _, preprocessing, table = lists
    offsets = pa.py_buffer(np.array([0, 2, 500, 2, 3, 3], np.int32).tobytes())
    damaged = pa.Array.from_buffers(pa.list_(pa.int64()), 5, [None, offsets], children=[pa.array([1, 2, 9])])
    with pytest.raises(DataError, match="is damaged"):
        preprocessing.from_arrow(table.set_column(3, "bag", damaged))


def test_a_number_may_be_missing_only_where_data_say_what_stands_for_it():
    config = RandomData(train_samples=4, rows=(7,), num_dense=1)
    preprocessing = preprocessing_of(config, build_dataset(config))
    assert not any(column.may_be_missing for column in preprocessing.columns)
    with pytest.raises(DataError, match="body, row 1, column int_0: is missing; give a finite number"):
        preprocessing.from_json([{"cat_0": 1}])
    for missing in (None, float("nan")):
        with pytest.raises(DataError, match=r"row 2, column int_0: is missing \(null or NaN\)"):
            preprocessing.from_arrow(pa.table({"int_0": [0.5, missing], "cat_0": [1, 2]}))


def test_text_with_tabs_is_not_the_format_of_numbers_and_ids(lists):
    _, preprocessing, _ = lists
    with pytest.raises(DataError, match="is tab separated text of Criteo's format, which this model does not take"):
        preprocessing.from_tsv(b"0.5\t1\t2\t3\n", labelled=False)
