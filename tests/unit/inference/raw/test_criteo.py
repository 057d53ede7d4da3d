"""Raw rows of Criteo's format become what they are in the data sets that models are trained on."""

import gzip
import os
import random
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from dlrm.config.data import CriteoTsvData
from dlrm.data.build import build_dataset
from dlrm.errors import DataError
from dlrm.inference.raw import Preprocessing, preprocessing_of
from dlrm.inference.raw.record import CriteoRecord, DenseColumnRecord, DenseRecord, HashedRecord
from tests.unit.inference.raw.forms import all_forms, assert_same, reloaded, trained_on

REPOSITORY = Path(__file__).parents[4]
SAMPLE = Path(os.environ.get("CRITEO_SAMPLE", REPOSITORY.parent / "shared" / "data" / "criteo_kaggle_sample.tsv.gz"))
NUM_DENSE, NUM_SPARSE, ROWS = 3, 4, 120

VARIANTS = {
    "vocabulary": {},
    "min_count": {"categories": {"kind": "vocabulary", "min_count": 3}},
    "hashing": {"categories": {"kind": "hashing", "rows": [50, 2, 1000, 7]}},
    "ids": {"categories": {"kind": "ids", "rows": [60, 2**33, 41, 40]}},
    "buckets": {"dense": {"buckets": True, "bucket_min_count": 2}},
    "standardised": {"dense": {"standardise": True, "shift": 4.5, "minimum": -3.25, "missing": -1.5}},
    "mean": {"dense": {"missing": "mean"}},
    "all": {"dense": {"missing": "mean", "standardise": True, "buckets": True}},
}


def make_rows(ids: bool) -> list[list[str]]:
    """Fields without the label; of the second half some categories are in no training row."""
    draw = random.Random(4)

    def integer():
        return "" if draw.random() < 0.2 else str(draw.choice([-7, -2, -1, 0, 1, 3, 259, 70_000, 10**17, 10**18 - 1]))

    def category(at):
        if ids:
            return str(draw.randrange(40))
        return "" if draw.random() < 0.2 else f"{draw.randrange(20 if at < ROWS // 2 else 40) * 0x9E3779B1 % 2**32:08x}"

    return [[*(integer() for _ in range(NUM_DENSE)), *(category(at) for _ in range(NUM_SPARSE))] for at in range(ROWS)]


def as_json(fields: list[str], names, ids: bool) -> dict:
    values = [
        None if field == "" else field if name.startswith("cat") and not ids else int(field)
        for name, field in zip(names, fields, strict=True)
    ]
    return dict(zip(names, values, strict=True))


@pytest.fixture(scope="module", params=VARIANTS, ids=list(VARIANTS))
def case(request, tmp_path_factory):
    """A variant's data set, the preprocessing that an export of it has, and the raw rows."""
    ids = request.param == "ids"
    rows = make_rows(ids)
    path = tmp_path_factory.mktemp("raw") / "day.tsv"
    path.write_text("".join("\t".join([str(at % 2), *fields]) + "\n" for at, fields in enumerate(rows)))
    options = {"num_dense": NUM_DENSE, "num_sparse": NUM_SPARSE, "split": {"validation": ROWS // 2, "test": 0}}
    config = CriteoTsvData.model_validate({"paths": [str(path)], **options, **VARIANTS[request.param]})
    dataset = build_dataset(config)
    preprocessing = reloaded(preprocessing_of(config, dataset))
    names = [column.name for column in preprocessing.columns]
    return dataset, preprocessing, path.read_bytes(), [as_json(fields, names, ids) for fields in rows]


def test_the_columns_are_those_of_the_model_s_data(case):
    dataset, preprocessing, _, _ = case
    assert preprocessing.schema == dataset.schema
    assert [column.name for column in preprocessing.columns] == [
        *(f"int_{i}" for i in range(NUM_DENSE)),
        *(f"cat_{i}" for i in range(NUM_SPARSE)),
    ]


def test_tsv_rows_are_what_they_were_in_training_and_validation(case):
    dataset, preprocessing, lines, _ = case
    features, labels_BT = preprocessing.from_tsv(lines, labelled=True)
    for source, rows in ((dataset.train, slice(0, ROWS // 2)), (dataset.validation, slice(ROWS // 2, ROWS))):
        expected = trained_on(source)
        assert_same(features[rows], expected, preprocessing.schema)
        assert torch.equal(labels_BT[rows], expected.labels_BT)


def test_rows_without_labels_are_the_same(case):
    _, preprocessing, lines, _ = case
    bare = b"".join(line.partition(b"\t")[2] for line in lines.splitlines(keepends=True))
    labelled, _ = preprocessing.from_tsv(lines, labelled=True)
    for text in (bare, bare.removesuffix(b"\n"), bare.replace(b"\n", b"\r\n")):
        features, labels = preprocessing.from_tsv(text, labelled=False)
        assert labels is None
        assert_same(features, labelled, preprocessing.schema)


def test_every_form_of_a_row_has_the_same_features(case):
    _, preprocessing, lines, rows = case
    expected, _ = preprocessing.from_tsv(lines, labelled=True)
    for features in all_forms(preprocessing, rows).values():
        assert_same(features, expected, preprocessing.schema)


def test_arrow_types_that_hold_the_same_values_give_the_same_features(case):
    _, preprocessing, lines, rows = case
    expected, _ = preprocessing.from_tsv(lines, labelled=True)
    names = list(rows[0])
    ids = isinstance(rows[0]["cat_0"], int)
    for integers, categories in (
        (pa.decimal128(20, 0), pa.decimal128(20, 0) if ids else pa.large_string()),
        (pa.int64(), pa.float64() if ids else pa.dictionary(pa.int8(), pa.string())),
        (pa.int64(), pa.uint64() if ids else pa.string_view()),
    ):
        table = pa.table({name: pa.array([row[name] for row in rows]) for name in names})
        types = [integers if name.startswith("int") else categories for name in names]
        columns = {
            name: table[name].combine_chunks().dictionary_encode()
            if pa.types.is_dictionary(kind)
            else table[name].cast(kind)
            for name, kind in zip(names, types, strict=True)
        }
        sliced = pa.concat_tables([pa.table(columns)[:7], pa.table(columns)[7:]])
        assert_same(preprocessing.from_arrow(sliced), expected, preprocessing.schema)


def test_categories_as_numbers_are_the_same_as_text(case):
    _, preprocessing, lines, rows = case
    if isinstance(rows[0]["cat_0"], int):
        pytest.skip("decimal ids are numbers")
    expected, _ = preprocessing.from_tsv(lines, labelled=True)
    numbers = [
        {name: int(value, 16) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    ]
    for features in all_forms(preprocessing, numbers).values():
        assert_same(features, expected, preprocessing.schema)
    upper = [{name: value.upper() if isinstance(value, str) else value for name, value in row.items()} for row in rows]
    assert_same(preprocessing.from_json(upper), expected, preprocessing.schema)


def test_a_key_that_is_left_out_is_a_missing_value(case):
    _, preprocessing, lines, rows = case
    expected, _ = preprocessing.from_tsv(lines, labelled=True)
    sparse = [{name: value for name, value in row.items() if value is not None} for row in rows]
    assert_same(preprocessing.from_json(sparse), expected, preprocessing.schema)


def test_no_rows_are_no_features(case):
    _, preprocessing, _, rows = case
    table = pa.table({name: pa.array([row[name] for row in rows]) for name in rows[0]})[:0]
    columns = {name: [] for name in rows[0]}
    empty = [preprocessing.from_json([]), preprocessing.from_columns(columns), preprocessing.from_arrow(table)]
    for features in (*empty, preprocessing.from_tsv(b"", labelled=True)[0]):
        assert features.dense_BN.shape == (0, len(preprocessing.schema.dense))
        assert features.ids_BS.shape == (0, preprocessing.schema.ids_per_sample)


def test_the_example_is_a_row(case):
    _, preprocessing, _, _ = case
    example = preprocessing.example()
    assert set(example) == {column.name for column in preprocessing.columns}
    assert len(all_forms(preprocessing, [example])["arrow"]) == 1


@pytest.fixture(scope="module")
def hashed():
    """Three integers and four hashed categories."""
    dense = DenseRecord(
        logarithm="numpy",
        minimum=-2.0,
        shift=3.0,
        columns=tuple(DenseColumnRecord(name=f"int_{i}", missing=1.0) for i in range(NUM_DENSE)),
    )
    categories = tuple(HashedRecord(name=f"cat_{i}", rows=100) for i in range(NUM_SPARSE))
    return Preprocessing.load(CriteoRecord(tasks=("label",), dense=dense, categories=categories), {})


@pytest.mark.parametrize(
    ("line", "labelled", "words"),
    [
        (
            "1\t2\t3\ta\tb\tc\td\te",
            False,
            "body, row 1: row has 8 columns, expected 7 (int_0 .. int_2, cat_0 .. cat_3)",
        ),
        ("0\t1\t2\t3\ta\tb\tc\td\te", True, "body, row 1: row has 9 columns, expected 8 (label, int_0 .. int_2, cat_0"),
        ("0\t1\t2\t3\ta\tb\tc\td", False, "does it begin with a label? The rows are read as rows without labels"),
        ("1\t2\t3\ta", False, "was its end cut off, as by a program that strips tabs? Give all 6 tabs"),
        ("1\t2\tx\ta\tb\tc\td", False, "body, row 1, column int_2: is 'x', not an integer"),
        ("1\t2\t3\ta\tb\tc\tg", False, "body, row 1, column cat_3: is 'g', not a category"),
        ("2\t1\t2\t3\ta\tb\tc\td", True, "body, row 1, column label: is '2', must be 0 or 1"),
        ("x\ty", False, "the columns of the model say how many there are"),
        ("", False, "body, row 1: the row is blank"),
    ],
)
def test_a_malformed_line_is_one_error_that_says_where(hashed, line, labelled, words):
    with pytest.raises(DataError) as caught:
        hashed.from_tsv(line.encode() + b"\n", labelled=labelled)
    assert words in str(caught.value)
    assert "data." not in str(caught.value)


@pytest.mark.criteo
@pytest.mark.skipif(
    not SAMPLE.exists(), reason=f"needs the Criteo Kaggle sample; CRITEO_SAMPLE names it, not at {SAMPLE}"
)
def test_rows_of_the_real_sample_are_what_they_were_in_training():
    with gzip.open(SAMPLE) as file:
        lines = [next(file) for _ in range(3000)]
    config = CriteoTsvData.model_validate(
        {"paths": [str(SAMPLE)], "categories": {"kind": "vocabulary", "min_count": 5}, "dense": {"standardise": True}}
    )
    dataset = build_dataset(config)
    preprocessing = reloaded(preprocessing_of(config, dataset))
    features, labels_BT = preprocessing.from_tsv(b"".join(lines), labelled=True)
    expected = trained_on(dataset.train, 3000)
    assert_same(features, expected, preprocessing.schema)
    assert torch.equal(labels_BT, expected.labels_BT)
    names = [column.name for column in preprocessing.columns]
    rows = [as_json(line.decode().removesuffix("\n").split("\t")[1:], names, ids=False) for line in lines[:300]]
    for form in all_forms(preprocessing, rows).values():
        assert_same(form, features[:300], preprocessing.schema)
