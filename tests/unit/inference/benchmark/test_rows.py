"""Made-up rows are rows that the export takes, with ids as skewed as is said; rows of files are those of the file."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlrm.errors import ConfigError
from dlrm.inference.benchmark.requests import make_requests
from dlrm.inference.benchmark.rows import made_up_rows, rows_of_file, zipf_ranks
from dlrm.inference.features import check_features
from dlrm.inference.raw.encoded import EncodedPreprocessing
from dlrm.inference.raw.record import EncodedRecord, IdColumnRecord


def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize(("rows", "skew"), [(1, 1.05), (3, 0.0), (1000, 0.0), (50, 1.0), (1000, 1.2)])
def test_ranks_are_as_likely_as_the_integral_of_the_law_over_them(rows, skew):
    count = 200_000
    found = np.bincount(zipf_ranks(rng().random(count), rows, skew), minlength=rows) / count
    edges = np.linspace(1, rows + 1, rows * 200 + 1)  # the integral, by the trapezoidal rule
    density = edges**-skew
    pieces = ((density[1:] + density[:-1]) / 2).reshape(rows, 200).sum(1)
    expected = pieces / pieces.sum()
    assert len(found) == rows
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(expected.max() / count))


def preprocessing():
    sparse = (
        IdColumnRecord(name="one", rows=2),
        IdColumnRecord(name="many", rows=500),
        IdColumnRecord(name="bag", rows=40, hotness=3, lists=True),
    )
    return EncodedPreprocessing(EncodedRecord(dense=("d", "e"), sparse=sparse, tasks=("click",), beyond="error"))


def test_made_up_rows_are_taken_and_vary():
    made = preprocessing()
    rows = made_up_rows(made, 300, skew=1.05, rng=rng())
    features = made.from_json(rows)
    check_features(features, made.schema, name="made up")
    assert rows == made_up_rows(made, 300, skew=1.05, rng=rng())
    assert len({row["many"] for row in rows}) > 50
    assert {row["one"] for row in rows} == {0, 1}
    assert {len(row["bag"]) for row in rows} == {1, 2, 3}
    assert features.dense_BN.std() > 0.1


def test_skew_makes_the_first_ids_frequent():
    made = preprocessing()
    share = {
        skew: np.mean([row["many"] < 5 for row in made_up_rows(made, 2000, skew=skew, rng=rng())])
        for skew in (0.0, 1.05)
    }
    assert share[0.0] < 0.03
    assert share[1.05] > 0.2


def test_made_up_rows_of_an_export_are_answered(tiny_predictor):
    made = tiny_predictor.preprocessing
    requests = make_requests(made, made_up_rows(made, 64, skew=1.0, rng=rng()), 3, seed=1)
    assert len(requests) == 64 // 3
    for number in (0, 20, 21, 100):
        ready, now = requests.take(number, "features"), requests.take(number, "raw")
        assert len(ready) == 3
        assert (ready.ids_BS == now.ids_BS).all()
        assert (ready.dense_BN == now.dense_BN).all()
    assert tiny_predictor.probabilities(requests.take(0, "raw")).shape == (3, 1)


def test_rows_are_read_of_parquet_and_of_json_lines(tmp_path):
    made = preprocessing()
    rows = made_up_rows(made, 10, skew=1.0, rng=rng())
    pq.write_table(pa.Table.from_pylist([{**row, "label": 1} for row in rows]), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for name in ("rows.parquet", "rows.jsonl"):
        assert rows_of_file(str(tmp_path / name), made, 100) == rows
        assert rows_of_file(str(tmp_path / name), made, 4) == rows[:4]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.jsonl", "{", "cannot be read as Parquet or JSON lines"),
        ("rows.parquet", "{}", "cannot be read as Parquet or JSON lines"),
        ("rows.jsonl", "\n", "has no rows"),
        ("rows.jsonl", '{"one": 1, "many": 500, "bag": [], "d": 1, "e": 1}', "row 1"),
        ("rows.jsonl", "3", "where an object of columns is needed"),
    ],
)
def test_a_file_without_rows_of_the_model_is_told_in_a_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        rows_of_file(str(tmp_path / name), preprocessing(), 10)
    assert str(caught.value).startswith("data: ")
    assert said in str(caught.value)
