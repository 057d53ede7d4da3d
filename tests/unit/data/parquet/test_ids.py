"""What is unambiguous is read: whole numbers of any type, and columns of nothing but nulls."""

from decimal import Decimal

import pyarrow as pa
import pytest
import torch

from dlrm.data.check import SKIPPED, SampleCheck
from dlrm.errors import DataError
from tests.unit.data.parquet.parquet_files import columns, dataset, write

NULL = -1
NAN = float("nan")


def one_column(folder, values, **options):
    """The training source of one sparse column ``ids`` of 100 rows."""
    write(folder / "train.parquet", {"label": [0] * len(values), "x": [0.0] * len(values), "ids": values})
    return dataset(folder, sparse=["ids"], **{"rows": [100]} | options).train


def read(source):
    return source.read(torch.arange(source.num_samples))


def checked(source):
    """What is trained on of all samples, and what was counted."""
    index_B = torch.arange(source.num_samples)
    check = SampleCheck(source)
    return check(source.read(index_B), index_B), check.counts.by_column(check.counts.snapshot())


@pytest.mark.parametrize(
    "values",
    [
        pa.array([3, 0, None, 99], pa.float16()),
        pa.array([3.0, 0.0, None, 99.0], pa.float32()),
        pa.array([3.0, -0.0, None, 99.0], pa.float64()),
        pa.array([3.0, 0.0, NAN, 99.0], pa.float64()),
        pa.array([Decimal(3), Decimal(0), None, Decimal(99)], pa.decimal128(5, 0)),
        pa.array([Decimal("3.00"), Decimal(0), None, Decimal(99)], pa.decimal128(38, 2)),
        pa.array([Decimal(3), Decimal(0), None, Decimal(99)], pa.decimal256(60, 1)),
        pa.array([3.0, 0.0, None, 99.0]).dictionary_encode(),
    ],
    ids=lambda values: str(values.type),
)
def test_whole_numbers_of_any_type_are_ids(tmp_path, values):
    assert read(one_column(tmp_path, values)).ids_BS.flatten().tolist() == [3, 0, NULL, 99]


def test_false_and_true_are_ids_0_and_1(tmp_path):
    values = pa.array([True, None, False])
    assert read(one_column(tmp_path, values)).ids_BS.flatten().tolist() == [1, NULL, 0]


def test_lists_may_hold_whole_floats(tmp_path):
    values = pa.array([[3.0, None], [], None, [7.0]], pa.list_(pa.float32()))
    samples = read(one_column(tmp_path, values, hotness=[2]))
    assert samples.ids_BS.tolist() == [[3, NULL], [0, 0], [0, 0], [7, 0]]
    assert samples.lengths_BF.flatten().tolist() == [2, 0, 0, 1]


NO_IDS = [
    (pa.array([5, 2.5, 7.25]), "id 2.5 is not whole; encode"),
    (pa.array([5, float("inf"), 0]), "id inf is beyond what double holds exactly; store ids as integers"),
    (pa.array([5, 2.0**53, 0]), "id 9007199254740992.0 is beyond what double holds exactly"),
    (pa.array([5, 2.0**24, 0], pa.float32()), "id 16777216.0 is beyond what float holds exactly"),
    (pa.array([Decimal(5), Decimal("2.5"), None]), "id 2.5 is not whole"),
    (pa.array([Decimal(5), Decimal(2**63), None]), f"id {2**63} is not whole, or beyond int64"),
    (pa.array([[5.0], [2.5], []], pa.list_(pa.float64())), "id 2.5 is not whole"),
]


@pytest.mark.parametrize(("values", "problem"), NO_IDS, ids=[problem[:20] for _, problem in NO_IDS])
def test_what_is_no_id_is_refused_with_its_row_or_skipped(tmp_path, values, problem):
    for policy in ("error", "hash", "clamp"):
        with pytest.raises(DataError) as caught:
            read(one_column(tmp_path, values, bad_rows=policy))
        assert (caught.value.row, caught.value.column) == (2, "ids")
        assert f"row 2, column ids: {problem}" in str(caught.value)
    samples, counts = checked(one_column(tmp_path, values, bad_rows="skip"))
    assert samples.weights_B.tolist()[:2] == [1, 0]
    assert samples.ids_BS[0].tolist() == [5]
    assert counts["ids"] >= 1
    assert counts[SKIPPED] >= 1


@pytest.mark.parametrize(("policy", "expected"), [("hash", [7, (2**63 + 5) % 100, 3]), ("clamp", [7, 99, 3])])
def test_an_unsigned_id_beyond_int64_is_a_bad_id_as_any_other(tmp_path, policy, expected):
    values = pa.array([7, 2**63 + 5, 3], pa.uint64())
    samples, counts = checked(one_column(tmp_path, values, bad_rows=policy))
    assert samples.ids_BS.flatten().tolist() == expected
    assert counts == {"ids": 1}
    samples, counts = checked(one_column(tmp_path, values, bad_rows="skip"))
    assert samples.weights_B.tolist() == [1, 0, 1]
    assert counts == {"ids": 1, SKIPPED: 1}


ROWS = {"label": [0, 1, 0], "x": [0.5, 1.5, 2.5], "id": [4, 5, 6], "bag": [[1], [2, 3], []]}
MAPPED = {"sparse": ["id", "bag"], "rows": [10, 10], "hotness": [1, 2], "dense_missing": 9.0}


@pytest.mark.parametrize("nulls_first", [False, True])
@pytest.mark.parametrize(
    ("column", "values", "dense", "ids", "lengths"),
    [
        ("x", pa.nulls(3), [9, 9, 9], None, None),
        ("id", pa.nulls(3), None, [[NULL, 1, 0], [NULL, 2, 3], [NULL, 0, 0]], [[1, 1], [1, 2], [1, 0]]),
        ("bag", pa.nulls(3), None, [[4, 0, 0], [5, 0, 0], [6, 0, 0]], [[1, 0], [1, 0], [1, 0]]),
        (
            "bag",
            pa.array([[], None, []], pa.list_(pa.null())),
            None,
            [[4, 0, 0], [5, 0, 0], [6, 0, 0]],
            [[1, 0], [1, 0], [1, 0]],
        ),
        (
            "bag",
            pa.array([[None], [], [None, None]], pa.list_(pa.null())),
            None,
            [[4, NULL, 0], [5, 0, 0], [6, NULL, NULL]],
            [[1, 1], [1, 0], [1, 2]],
        ),
    ],
)
def test_a_column_of_nothing_but_nulls_has_the_rule_for_nulls(
    tmp_path, nulls_first, column, values, dense, ids, lengths
):
    names = ("train_2", "train_1") if nulls_first else ("train_1", "train_2")
    write(tmp_path / f"{names[0]}.parquet", ROWS)
    write(tmp_path / f"{names[1]}.parquet", ROWS | {column: values})
    source = dataset(tmp_path, **MAPPED).train
    everything = read(source)
    half = slice(0, 3) if nulls_first else slice(3, 6)
    assert everything.dense_BN[half].flatten().tolist() == (dense or ROWS["x"])
    assert everything.ids_BS[half].tolist() == (ids or [[4, 1, 0], [5, 2, 3], [6, 0, 0]])
    assert everything.lengths_BF[half].tolist() == (lengths or [[1, 1], [1, 2], [1, 0]])


def test_a_data_set_of_nothing_but_nulls_has_null_ids_and_empty_bags(tmp_path):
    write(tmp_path / "train.parquet", ROWS | {name: pa.nulls(3) for name in ("x", "id", "bag")})
    found = read(dataset(tmp_path, **MAPPED).train)
    assert found.dense_BN.flatten().tolist() == [9, 9, 9]
    assert found.ids_BS.tolist() == [[NULL, 0, 0]] * 3
    assert found.lengths_BF.tolist() == [[1, 0]] * 3


def test_labels_of_nothing_but_nulls_are_skipped_where_bad_rows_are(tmp_path):
    write(tmp_path / "train.parquet", columns(2) | {"label": pa.nulls(2)})
    samples, counts = checked(dataset(tmp_path, bad_rows="skip").train)
    assert samples.weights_B.tolist() == [0, 0]
    assert counts == {"label": 2, SKIPPED: 2}


def test_a_row_error_names_the_column_of_the_label(tmp_path):
    write(tmp_path / "train.parquet", columns(20) | {"watched": [0.0] * 16 + [0.86, None, 1, 1]})
    source = dataset(tmp_path, label="watched").train
    with pytest.raises(DataError, match=r"train\.parquet, row 17, column watched: 0\.86\d* is neither 0 nor 1"):
        checked(source)
    index_B = torch.tensor([17])
    samples = source.read(index_B)
    with pytest.raises(DataError, match=r"row 18, column watched: the label is missing \(null or NaN\)"):
        SampleCheck(source)(samples, index_B)
