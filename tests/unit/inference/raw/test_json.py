"""What is wrong with rows of JSON values is said in one line that names row and column, whatever they are."""

import json
import random
import re
from pathlib import Path

import pytest

from dlrm.errors import DataError
from dlrm.inference.raw import Preprocessing
from dlrm.inference.raw.record import (
    CriteoRecord,
    DecimalRecord,
    DenseColumnRecord,
    DenseRecord,
    EncodedRecord,
    HashedRecord,
    IdColumnRecord,
)

HUGE = 10**5000


def dense_record(count: int) -> DenseRecord:
    columns = tuple(DenseColumnRecord(name=f"int_{i}", missing=1.0) for i in range(count))
    return DenseRecord(logarithm="numpy", minimum=-2.0, shift=3.0, columns=columns)


@pytest.fixture(scope="module")
def criteo():
    """Two integers and two hashed categories."""
    categories = tuple(HashedRecord(name=f"cat_{i}", rows=100) for i in range(2))
    return Preprocessing.load(CriteoRecord(tasks=("label",), dense=dense_record(2), categories=categories), {})


@pytest.fixture(scope="module")
def decimal():
    """An integer and a decimal id."""
    categories = (DecimalRecord(name="cat_0", rows=100),)
    return Preprocessing.load(CriteoRecord(tasks=("label",), dense=dense_record(1), categories=categories), {})


@pytest.fixture(scope="module")
def encoded():
    """A number, an id and a list of at most three ids."""
    sparse = IdColumnRecord(name="ad", rows=10), IdColumnRecord(name="seen", rows=20, hotness=3, lists=True)
    return Preprocessing.load(EncodedRecord(tasks=("label",), dense=("age",), sparse=sparse), {})


GOOD = {"criteo": {"int_0": 1, "cat_0": "a"}, "encoded": {"age": 0.5, "ad": 3, "seen": [1]}}

REFUSED = [
    ("criteo", {"int_0": True}, "column int_0: is true, not a whole number"),
    ("criteo", {"int_0": "1"}, "column int_0: is '1', not a whole number; give a whole number, or null"),
    ("criteo", {"int_0": 1.5}, "column int_0: is 1.5, not a whole number"),
    ("criteo", {"int_0": float("nan")}, "column int_0: is nan, not a whole number"),
    ("criteo", {"int_0": float("-inf")}, "column int_0: is -inf, not a whole number"),
    ("criteo", {"int_0": 2.0**60}, "column int_0: is 1.152921504606847e+18, beyond what a float holds exactly"),
    ("criteo", {"int_0": 10**18}, "column int_0: is 1000000000000000000, more than 18 digits"),
    ("criteo", {"int_0": -HUGE}, "column int_0: is a number of 16,610 bits, more than 18 digits"),
    ("criteo", {"int_0": [1]}, "column int_0: is a list, not a whole number"),
    ("criteo", {"int_0": {"a": 1}}, "column int_0: is an object, not a whole number"),
    ("criteo", {"cat_1": "0x1f"}, "column cat_1: is '0x1f', not a category of 1 to 8 hexadecimal digits"),
    ("criteo", {"cat_1": " a"}, "column cat_1: is ' a', not a category"),
    ("criteo", {"cat_1": "a\n"}, r"column cat_1: is 'a\n', not a category"),
    ("criteo", {"cat_1": "１"}, "column cat_1: is '１', not a category"),
    ("criteo", {"cat_1": "1" * 9}, "column cat_1: is '111111111', longer than 8 hexadecimal digits (32 bits)"),
    ("criteo", {"cat_1": "x" * 10**6}, "not a category"),
    ("criteo", {"cat_1": 2**32}, "column cat_1: is 4294967296, outside of the categories 0 .. 4294967295"),
    ("criteo", {"cat_1": -1}, "column cat_1: is -1, outside of the categories"),
    ("criteo", {"cat_1": False}, "column cat_1: is false, neither hexadecimal text nor a whole number"),
    ("criteo", {"cat_2": "a"}, "column cat_2: the model has no such column; did you mean cat_1?"),
    ("criteo", {"label": 1}, "column label: the model has no such column; there are int_0, int_1, cat_0, cat_1"),
    ("criteo", {"\x1b[2J" * 100: 1}, r"column \x1b[2J"),
    ("encoded", {"age": "old"}, "column age: is 'old', not a number; give a finite number"),
    ("encoded", {"age": True}, "column age: is true, not a number"),
    ("encoded", {"age": None}, "column age: is missing; give a finite number"),
    ("encoded", {"age": float("inf")}, "column age: is inf, which is not finite in float32"),
    ("encoded", {"age": float("nan")}, "column age: is nan, which is not finite in float32"),
    ("encoded", {"age": 1e39}, "column age: is 1e+39, which is not finite in float32"),
    ("encoded", {"age": HUGE}, "column age: is a number of 16,610 bits, a whole number beyond int64"),
    ("encoded", {"ad": 10}, "column ad: id 10 is outside of its table (0 .. 9); give a whole number from 0 to 9"),
    ("encoded", {"ad": -1}, "column ad: id -1 is outside of its table"),
    ("encoded", {"ad": HUGE}, "column ad: id a number of 16,610 bits is outside of its table"),
    ("encoded", {"ad": None}, "column ad: is missing"),
    ("encoded", {"ad": [1]}, "column ad: is a list, not a whole number"),
    ("encoded", {"seen": 1}, "column seen: is 1, not a list; give a list of at most 3 ids"),
    ("encoded", {"seen": None}, "column seen: is missing; give a list of at most 3 ids ([] if there is none)"),
    ("encoded", {"seen": "abc"}, "column seen: is 'abc', not a list"),
    ("encoded", {"seen": [1, 2, 3, 4]}, "column seen: has 4 ids, more than hotness 3"),
    ("encoded", {"seen": [1, 20]}, "column seen: id 20 is outside of its table (0 .. 19)"),
    ("encoded", {"seen": [1, True]}, "column seen: is true, not a whole number"),
    ("encoded", {"seen": [[1]]}, "column seen: is a list, not a whole number"),
]


@pytest.mark.parametrize(("kind", "change", "words"), REFUSED, ids=range(len(REFUSED)))
def test_a_value_that_is_none_of_its_column_is_named_by_row_and_column(request, kind, change, words):
    preprocessing = request.getfixturevalue(kind)
    good = GOOD[kind]
    with pytest.raises(DataError) as caught:
        preprocessing.from_json([good, good, good | change], name="line")
    [column] = change
    assert caught.value.row == 3
    assert f"line, row 3, column {column[:1]}" in str(caught.value) or not column.isprintable()
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400
    columns = {name: [good.get(name)] * 2 + [(good | change).get(name)] for name in good | change}
    with pytest.raises(DataError) as again:
        preprocessing.from_columns(columns, name="line")
    assert (again.value.column, again.value.problem) == (caught.value.column, caught.value.problem)
    assert again.value.row == (3 if column in {one.name for one in preprocessing.columns} else None)


def test_decimal_ids_are_numbers(decimal):
    assert decimal.from_json([{"int_0": 5, "cat_0": 99}]).ids_BS.tolist() == [[99]]
    for value, words in ((None, "is missing"), ("7", "is '7', not a whole number"), (100, "id 100 is outside")):
        with pytest.raises(DataError, match=f"column cat_0: {words}"):
            decimal.from_json([{"int_0": 5, "cat_0": value}])
    assert decimal.from_tsv(b"\t99\n", labelled=False)[0].ids_BS.tolist() == [[99]]
    with pytest.raises(DataError, match=r"column cat_0: is '', but every id must be given .* mend the id"):
        decimal.from_tsv(b"3\t\n", labelled=False)


def test_whole_floats_are_the_numbers_that_they_are(criteo, encoded):
    assert_equal(criteo, {"int_0": 260.0, "cat_0": 26.0}, {"int_0": 260, "cat_0": "1a"})
    assert_equal(encoded, {"age": 2, "ad": 3.0, "seen": [4.0]}, {"age": 2.0, "ad": 3, "seen": [4]})


def test_an_empty_category_is_a_missing_one(criteo):
    assert_equal(criteo, {"cat_0": "", "cat_1": None}, {})


def assert_equal(preprocessing, row, other):
    features, others = preprocessing.from_json([row]), preprocessing.from_json([other])
    assert features.dense_BN.tolist() == others.dense_BN.tolist()
    assert features.ids_BS.tolist() == others.ids_BS.tolist()


@pytest.mark.parametrize("row", [None, 5, "int_0", ["int_0"], [["int_0", 1]], True])
def test_a_row_is_an_object(criteo, row):
    with pytest.raises(DataError, match=r"body, row 2: is .*, where an object of columns is needed"):
        criteo.from_json([{}, row])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"int_0": [1, 2], "cat_0": ["a"]}, "body, column cat_0: has 1 value, int_0 has 2"),
        ({"int_0": 1}, "body, column int_0: is 1, not a list"),
        ({"int_0": "ab"}, "body, column int_0: is 'ab', not a list"),
        ({"int_0": None}, "body, column int_0: is null, not a list"),
        ({}, "body: has no columns"),
        ({"int_9": [1]}, r"body, column int_9: the model has no such column; did you mean int_\d\?"),
        ([1], "body: is a list, where an object of columns is needed"),
    ],
)
def test_columns_are_lists_of_equal_length(criteo, columns, words):
    with pytest.raises(DataError, match=words):
        criteo.from_columns(columns)


def test_columns_that_are_left_out_are_missing_in_every_row(criteo):
    expected = criteo.from_json([{"int_1": 4}, {"int_1": 5}])
    features = criteo.from_columns({"int_1": [4, 5]})
    assert features.dense_BN.tolist() == expected.dense_BN.tolist()
    assert features.ids_BS.tolist() == expected.ids_BS.tolist()


def test_columns_say_what_their_values_may_be(criteo, encoded):
    assert [(column.name, column.kind, column.says) for column in encoded.columns] == [
        ("age", "number", "a number"),
        ("ad", "id", "an id from 0 to 9"),
        ("seen", "id list", "a list of at most 3 ids from 0 to 19"),
    ]
    assert [column.says for column in criteo.columns[::2]] == [
        "a whole number; may be missing",
        "1 to 8 hexadecimal digits, as text; may be missing",
    ]


def test_the_examples_of_the_documentation_are_one_and_the_same_row():
    categories = tuple(HashedRecord(name=f"cat_{i}", rows=1000) for i in range(2))
    preprocessing = Preprocessing.load(CriteoRecord(tasks=("label",), dense=dense_record(3), categories=categories), {})
    page = (Path(__file__).parents[4] / "docs" / "inference.md").read_text()
    row, columns, numbers = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    line = re.search(r"```text\n(.*?\n)```", page, re.DOTALL)[1].encode()
    expected, _ = preprocessing.from_tsv(line, labelled=False)
    for features in (preprocessing.from_json([row]), preprocessing.from_columns(columns)[:1]):
        assert features.dense_BN.tolist() == expected.dense_BN.tolist()
        assert features.ids_BS.tolist() == expected.ids_BS.tolist()
    sparse = IdColumnRecord(name="ad", rows=10_000), IdColumnRecord(name="seen", rows=20, hotness=5, lists=True)
    lists = Preprocessing.load(EncodedRecord(tasks=("label",), dense=("age",), sparse=sparse), {})
    assert lists.from_json([numbers]).ids_BS.tolist() == [[1207, 3, 17, 17, 0, 0]]


def refusal(read, given) -> DataError | None:
    """What is wrong with what was given; None if nothing is."""
    try:
        read(given)
    except DataError as error:
        return error
    return None


VALUES = [
    None, True, False, 0, 1, -1, 9, 10, 19, 20, 2**31, 2**32, 2**53, 2**63, 2**64, -(2**63), HUGE, 0.0, -0.0, 0.5, 3.0,
    1e30, 1e39, 1e308, float("nan"), float("inf"), "", "a", "A0", "0x1", "1_0", "+1", "68fd1e64", "68fd1e641", "\ud800",
    "\x00", "ä" * 50, [], [1], [1, 2, 3], [1, 2, 3, 4], [None], [[1]], ["1"], [1.0], {}, {"a": 1}, (1, 2),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["criteo", "decimal", "encoded"])
def test_any_row_has_finite_features_inside_of_the_tables_or_an_error_of_the_data(request, kind):
    preprocessing = request.getfixturevalue(kind)
    draw = random.Random(kind)
    names = [column.name for column in preprocessing.columns]
    answered = 0
    for _ in range(4000):
        row = preprocessing.example()
        for name in draw.choices(names, k=draw.choice([0, 1, 1, 2])):
            row[name] = draw.choice(VALUES)
        if draw.random() < 0.1:
            row.pop(draw.choice(names))
        if draw.random() < 0.03:
            row[draw.choice(["", "x", "\ud800", "int_00"])] = draw.choice(VALUES)
        columns = {name: [value] for name, value in row.items()}
        if (error := refusal(preprocessing.from_json, [row])) is not None:
            assert error.row == 1
            assert str(error).isprintable()
            assert refusal(preprocessing.from_columns, columns) is not None
            continue
        answered += 1
        features = preprocessing.from_json([row])
        assert features.dense_BN.isfinite().all()
        rows = [feature.rows for feature in preprocessing.schema.sparse for _ in range(feature.hotness)]
        assert all(0 <= one < size for one, size in zip(features.ids_BS[0].tolist(), rows, strict=True))
        again = preprocessing.from_columns(columns)
        assert again.dense_BN.tolist() == features.dense_BN.tolist()
        assert again.ids_BS.tolist() == features.ids_BS.tolist()
    assert 500 < answered < 3800


@pytest.mark.parametrize("kind", ["criteo", "decimal", "encoded"])
def test_any_json_document_is_rows_or_an_error_of_the_data(request, kind):
    preprocessing = request.getfixturevalue(kind)
    draw = random.Random(kind)
    good = json.dumps([preprocessing.example()] * 2)
    for _ in range(3000):
        text = list(good)
        for _ in range(draw.choice([1, 2, 3])):
            at = draw.randrange(len(text))
            text[at : at + draw.randrange(3)] = draw.choice(["", *'[]{}",:0123456789.-eEnulltruefals '])
        try:
            document = json.loads("".join(text))
        except ValueError:
            continue
        for read in (preprocessing.from_json, preprocessing.from_columns):
            if isinstance(document, list) or read == preprocessing.from_columns:
                error = refusal(read, document)
                assert error is None or str(error).startswith("body")
