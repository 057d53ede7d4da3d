"""What predict cannot do is one line with file, row and column, and nothing of it is lost."""

import gzip
import os
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlrm.errors import ConfigError, DataError, ExportError
from tests.support.predicting import ROWS, options, predict_alone


def refused(forms, output, form="raw", **changes):
    with pytest.raises((ConfigError, DataError, ExportError)) as caught:
        predict_alone(forms, output, form, **changes)
    line = str(caught.value)
    assert "\n" not in line
    return line


def write_text(path, lines):
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


BAD_LINES = {
    "too many fields": (b"1\t2\t3\ta\tb\tc\td", "row 251: row has 7 columns, expected 6"),
    "too few fields": (b"1\t2\t3", "row 251: row has 3 columns, expected 6"),
    "no integer": (b"1\tx\t3\ta\tb\tc", "row 251, column int_0: is 'x'"),
    "no category": (b"1\t2\t3\ta\tb\tzz", "row 251, column cat_2: is 'zz'"),
    "no label": (b"2\t2\t3\ta\tb\tc", "row 251, column label: is '2'"),
}


@pytest.mark.parametrize("packing", ["plain", "gz"])
@pytest.mark.parametrize("name", BAD_LINES)
def test_a_malformed_line_is_named(forms, tmp_path, name, packing):
    bad, words = BAD_LINES[name]
    path = write_text(tmp_path / "a", [*forms.lines[:250], bad, *forms.lines[250:]])
    if packing == "gz":
        (tmp_path / "a").write_bytes(gzip.compress((tmp_path / "a").read_bytes()))
    line = refused(forms, tmp_path / "b.npy", input=[path])
    assert line.startswith(f"{path}, {words}"), line
    assert line.endswith("bad_rows skip goes on without such rows")
    assert list((tmp_path / "b.npy.parts").glob("*.arrow"))


@pytest.mark.parametrize("packing", ["plain", "gz"])
def test_malformed_lines_are_skipped_counted_and_told(forms, tmp_path, packing, capsys):
    bad = [line for line, _ in BAD_LINES.values()]
    lines = [*bad, *forms.lines[:100], bad[0], *forms.lines[100:399], bad[1], forms.lines[399], b"\xff\t\xfe"]
    path = write_text(tmp_path / "a", lines)
    if packing == "gz":
        (tmp_path / "a").write_bytes(gzip.compress((tmp_path / "a").read_bytes()))
    output = predict_alone(forms, tmp_path / "b.npy", input=[path], bad_rows="skip", labels="true")
    found = np.load(output)[:, 0]
    whole = np.load(predict_alone(forms, tmp_path / "c.npy"))[:, 0]
    is_bad = np.array([line not in forms.lines for line in lines])
    assert np.isnan(found[is_bad]).all()
    assert np.array_equal(found[~is_bad], whole)
    assert "408 rows, 8 rows skipped in" in capsys.readouterr().out
    for ending in ("csv", "parquet"):
        predict_alone(
            forms, tmp_path / f"b.{ending}", input=[path], bad_rows="skip", labels="true", carry="cat_0,cat_2"
        )
    table = pq.read_table(tmp_path / "b.parquet")
    assert np.array_equal(table["probability"].is_null().to_numpy(), is_bad)
    assert table.filter(pa.array(~is_bad))["cat_2"].to_pylist() == [
        line.split(b"\t")[5].decode() for line in forms.lines
    ]
    assert (tmp_path / "b.csv").read_text().splitlines()[1].endswith(",")


@pytest.fixture
def table(forms):
    return pq.read_table(forms.parquet)


def changed(table, column, at, value, kind=None):
    values = table[column].to_pylist()
    values[at] = value
    return table.set_column(table.column_names.index(column), column, pa.array(values, kind))


@pytest.mark.parametrize(
    ("column", "value", "kind", "words"),
    [
        ("int_0", 10**18, pa.int64(), "row 311, column int_0: is 1000000000000000000, more than 18 digits"),
        ("int_1", 0.5, pa.float64(), "row 311, column int_1: id 0.5 is not a whole number"),
        ("cat_1", "xyz", pa.string(), "row 311, column cat_1: is 'xyz', not a category"),
        ("label", 3, pa.int64(), "row 311, column label: label 3 is neither 0 nor 1; mend it, or set labels to false"),
    ],
)
def test_a_bad_value_of_a_parquet_file_is_named(forms, tmp_path, table, column, value, kind, words):
    path = tmp_path / "a.parquet"
    pq.write_table(changed(table, column, 310, value, kind), path, row_group_size=50)
    line = refused(forms, tmp_path / "b.npy", input=[str(path)])
    assert line.startswith(f"{path}, row 311, column {column}: "), line
    found = np.load(predict_alone(forms, tmp_path / "b.npy", input=[str(path)], bad_rows="skip", overwrite=True))
    assert np.flatnonzero(np.isnan(found[:, 0])).tolist() == [310]


@pytest.mark.parametrize("beyond", [10**6, -1])
def test_an_id_outside_of_its_table_is_named_with_the_file_of_its_part(forms, tmp_path, beyond):
    shutil.copytree(forms.packed, tmp_path / "packed")
    file = tmp_path / "packed" / "day_1_sparse.npy"
    ids_MF = np.load(file)
    ids_MF[17, 2] = beyond
    np.save(file, ids_MF)
    line = refused(forms, tmp_path / "b.npy", input=[str(tmp_path / "packed")])
    assert line.startswith(f"{file}, row 18, column cat_2: id {beyond} is outside of its table"), line
    found = np.load(
        predict_alone(forms, tmp_path / "c.npy", input=[str(tmp_path / "packed")], bad_rows="skip", chunk_rows=1000)
    )
    assert np.flatnonzero(np.isnan(found[:, 0])).tolist() == [ROWS[0] + 17]


def test_packed_data_of_another_encoding_are_refused(forms, tmp_path):
    from tests.unit.preprocess.tiny_criteo import make, write_raw

    other = make(write_raw(tmp_path / "raw", rows=(230, 169)), tmp_path / "other", split={"train": ["day_1"]})
    line = refused(forms, tmp_path / "b.npy", input=[str(other)])
    assert line.startswith(f"{other}: was not encoded as the model's training data: categories of cat_")
    shifted = make(forms.raw, tmp_path / "shifted", dense={"shift": 4.0}, split={"train": ["day_0"], "test": ["day_1"]})
    assert "its integers were transformed in another way" in refused(forms, tmp_path / "b.npy", input=[str(shifted)])
    os.remove(other / "dataset.json")  # nobody says so
    predict_alone(forms, tmp_path / "b.npy", input=[str(forms.packed)])


def test_damaged_files_are_named(forms, tmp_path):
    gz = (forms.gz / "day_0.gz").read_bytes()
    (tmp_path / "a.gz").write_bytes(gz[: len(gz) // 2])
    assert re.match(f"{tmp_path}/a.gz: .*cut off", refused(forms, tmp_path / "b.npy", input=[str(tmp_path / "a.gz")]))
    data = (forms.parquet / "day_0.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:-20])
    line = refused(forms, tmp_path / "b.npy", input=[str(tmp_path / "a.parquet")])
    assert line.startswith(f"{tmp_path}/a.parquet: is cut off")
    group = pq.ParquetFile(forms.parquet / "day_0.parquet").metadata.row_group(1)
    at = next(c.data_page_offset for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "cat_1")
    (tmp_path / "c.parquet").write_bytes(data[:at] + bytes(30) + data[at + 30 :])
    line = refused(forms, tmp_path / "c.npy", input=[str(tmp_path / "c.parquet")])
    assert line.startswith(f"{tmp_path}/c.parquet, row 71: cannot be decoded")


MISTAKES = {
    "no column": ({"drop": "cat_1"}, {}, "there is no column cat_1; did you mean cat_2?"),
    "carried": ({}, {"carry": "idd"}, "there is no column idd; did you mean id?"),
    "label": ({"drop": "label"}, {"labels": "true"}, "there is no column label"),
    "name": ({}, {"carry": "probability"}, "carry: probability is what the results are called"),
    "list": ({}, {"carry": "bag", "ending": "csv"}, "which .csv cannot hold: write .parquet"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_does_not_fit_is_said_before_anything_is_read(forms, tmp_path, table, name):
    change, given, words = MISTAKES[name]
    given = dict(given)
    ending = given.pop("ending", "parquet")
    table = table.append_column("bag", pa.array([[1]] * len(table)))
    table = table.append_column("probability", table["id"])
    pq.write_table(table.drop_columns([change["drop"]] if change else []), tmp_path / "a.parquet")
    line = refused(forms, tmp_path / f"b.{ending}", input=[str(tmp_path / "a.parquet")], **given)
    assert words in line
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_files_that_disagree_on_a_column_that_is_carried_are_named(forms, tmp_path, table):
    for name, kind in (("a", pa.int64()), ("b", pa.float64())):
        pq.write_table(changed(table, "id", 0, 0, kind), tmp_path / f"{name}.parquet")
    line = refused(forms, tmp_path / "out.csv", input=[str(tmp_path)], carry="id")
    assert line.startswith(f"{tmp_path}/b.parquet, column id: is double, in {tmp_path}/a.parquet int64")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input": ["nowhere"]}, "nowhere: no such file"),
        ({"input": ["nowhere.parquet"], "kind": "parquet"}, "nowhere.parquet: no such file"),
        ({"input": ["no*where"]}, "no*where: the pattern matches no file"),
        ({"export": "nowhere"}, "nowhere: there is no such folder; name the folder of an export"),
        ({"carry": "cat_9"}, "has no column cat_9 to carry; did you mean cat_"),
    ],
)
def test_what_is_not_there_is_named(forms, tmp_path, monkeypatch, changes, words):
    monkeypatch.chdir(tmp_path)
    assert words in refused(forms, tmp_path / "b.csv", **changes)
    assert os.listdir(tmp_path) == []


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(forms, tmp_path):
    assert refused(forms, tmp_path / "no" / "b.npy").startswith(f"{tmp_path}/no: there is no such folder; make it")
    (tmp_path / "c.npy").mkdir()
    assert refused(forms, tmp_path / "c.npy").startswith(f"{tmp_path}/c.npy: is a folder")
    (tmp_path / "link.npy").symlink_to(tmp_path / "elsewhere.npy")
    assert refused(forms, tmp_path / "link.npy", overwrite=True).startswith(f"{tmp_path}/link.npy: is a link; name the")
    shutil.copy(forms.parquet / "day_0.parquet", tmp_path / "d.parquet")
    line = refused(forms, tmp_path / "d.parquet", input=[str(tmp_path / "d.parquet")], overwrite=True)
    assert "is input and output" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": "a.txt"}, "output must end with .parquet, .csv or .npy, is 'a.txt'"),
        ({"output": "a.npy", "carry": "id"}, "carry needs an output of .parquet or .csv"),
        ({"output": "a.csv", "carry": "id,id"}, "carry names id twice"),
        ({"output": "a.csv", "input": [""]}, "input holds an empty name"),
    ],
)
def test_options_that_contradict_each_other_are_refused(forms, changes, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        options(forms, **changes)
