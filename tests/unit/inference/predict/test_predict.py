"""What predict writes: the model's probability of every row, in order, whatever the rows are read from."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from dlrm.config.data import PackedData
from dlrm.data.build import build_dataset
from dlrm.inference.exported.predictor import open_predictor
from dlrm.inference.features import Features
from tests.support.exports import TrainersModel
from tests.support.predicting import ROWS, predict_alone

FORMS = ["raw", "gz", "packed", "parquet"]


@pytest.fixture(scope="module")
def samples(forms):
    """All rows as training read them, in order."""
    config = PackedData(path=str(forms.packed), split={"train": ["day_0", "day_1"]})
    source = build_dataset(config).train
    return source.read(torch.arange(source.num_samples))


@pytest.fixture(scope="module")
def expected(forms, samples):
    """The export's answers to all rows at once."""
    return open_predictor(forms.export).probabilities(Features.of(samples)).numpy()


def test_probabilities_are_those_of_the_trainers_model(forms, samples, tmp_path):
    found_MT = np.load(predict_alone(forms, tmp_path / "a.npy"))
    logits_MT = TrainersModel(forms.run).logits(samples).double()
    assert found_MT.dtype == np.float32
    assert found_MT.shape == (sum(ROWS), 1)
    np.testing.assert_allclose(found_MT, logits_MT.sigmoid().numpy(), rtol=0, atol=1e-6)
    assert found_MT.std() > 0.05


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("chunk_rows", "threads"), [(5, 1), (33, 3), (100_000, 2)])
def test_bits_depend_on_neither_form_nor_blocks_nor_threads(forms, expected, tmp_path, form, chunk_rows, threads):
    found_MT = np.load(predict_alone(forms, tmp_path / "a.npy", form, chunk_rows=chunk_rows, threads=threads))
    assert np.array_equal(found_MT.view(np.int32), expected.view(np.int32))


def test_logits_are_written_where_that_is_asked_for(forms, expected, tmp_path):
    logits_MT = np.load(predict_alone(forms, tmp_path / "a.npy", logits=True)).astype(np.float64)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits_MT)), expected, rtol=0, atol=1e-7)


def test_the_endings_of_the_output_say_how_it_is_written(forms, expected, tmp_path):
    table = pq.read_table(predict_alone(forms, tmp_path / "a.parquet"))
    assert table.schema == pa.schema([pa.field("probability", pa.float32())])
    assert np.array_equal(table["probability"].to_numpy(), expected[:, 0])
    with open(predict_alone(forms, tmp_path / "a.CSV")) as file:
        header, *rows = csv.reader(file)
    assert header == ["probability"]
    assert np.array_equal(np.array([np.float32(row[0]) for row in rows]), expected[:, 0])
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".metrics.json")) == [
        "a.CSV",
        "a.parquet",
    ]


def test_columns_are_carried_from_parquet_by_name(forms, tmp_path):
    table = pq.read_table(predict_alone(forms, tmp_path / "a.parquet", "parquet", carry="cat_1,id"))
    source = pq.read_table(forms.parquet)
    assert table.column_names == ["cat_1", "id", "probability"]
    assert table.select(["cat_1", "id"]).to_pydict() == source.select(["cat_1", "id"]).to_pydict()


def test_columns_are_carried_from_text_as_they_are_written_there(forms, tmp_path):
    table = pq.read_table(predict_alone(forms, tmp_path / "a.parquet", "gz", carry="cat_2,label,int_0"))
    fields = [line.decode().split("\t") for line in forms.lines]
    assert table.select(["cat_2", "label", "int_0"]).to_pydict() == {
        "cat_2": [row[5] for row in fields],
        "label": [row[0] for row in fields],
        "int_0": [row[1] for row in fields],
    }


def test_columns_are_carried_from_packed_data_by_name(forms, samples, tmp_path):
    table = pq.read_table(predict_alone(forms, tmp_path / "a.parquet", "packed", carry="label,int_1,cat_0"))
    assert table["label"].to_pylist() == samples.labels_BT[:, 0].int().tolist()
    assert np.array_equal(table["int_1"].to_numpy(), samples.dense_BN[:, 1])
    assert np.array_equal(table["cat_0"].to_numpy(), samples.ids_BS[:, 0])


def test_files_are_taken_in_the_order_in_which_they_are_named(forms, expected, tmp_path):
    names = [str(forms.raw / "day_1"), str(forms.gz / "day_0.gz"), str(forms.raw / "day_1")]
    found_MT = np.load(predict_alone(forms, tmp_path / "a.npy", input=names))
    first, second = expected[: ROWS[0]], expected[ROWS[0] :]
    assert np.array_equal(found_MT, np.concatenate([second, first, second]))
    by_pattern = np.load(predict_alone(forms, tmp_path / "b.npy", input=[str(forms.raw / "day_*")]))
    assert np.array_equal(by_pattern, expected)


def test_a_split_of_packed_data_is_what_dataset_json_says(forms, expected, tmp_path):
    found_MT = np.load(predict_alone(forms, tmp_path / "a.npy", "packed", split="test"))
    assert np.array_equal(found_MT, expected[ROWS[0] :])


@pytest.mark.parametrize("form", FORMS)
def test_figures_are_scikit_learns(forms, expected, samples, tmp_path, form, capsys):
    predict_alone(forms, tmp_path / "a.npy", form)
    labels = samples.labels_BT[:, 0].numpy()
    scores = expected[:, 0].astype(np.float64)
    figures = json.loads((tmp_path / "a.npy.metrics.json").read_text())["tasks"]["label"]
    assert figures["samples"] == sum(ROWS)
    assert figures["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert figures["log_loss"] == pytest.approx(log_loss(labels, scores), abs=1e-6)
    rate = labels.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert figures["normalised_entropy"] == pytest.approx(log_loss(labels, scores) / entropy, abs=1e-6)
    assert f"AUC {figures['auc']:.6f}, log loss {figures['log_loss']:.6f}" in capsys.readouterr().out


def test_rows_without_labels_are_predicted_and_have_no_figures(forms, expected, tmp_path, capsys):
    text = b"".join(line.partition(b"\t")[2] + b"\r\n" for line in forms.lines)
    (tmp_path / "test.txt").write_bytes(text.removesuffix(b"\r\n"))
    (tmp_path / "a.parquet.metrics.json").write_text("of an earlier output")
    output = predict_alone(forms, tmp_path / "a.parquet", input=[str(tmp_path / "test.txt")], carry="cat_2")
    table = pq.read_table(output)
    assert np.array_equal(table["probability"].to_numpy(), expected[:, 0])
    assert table["cat_2"].to_pylist() == [line.split(b"\t")[5].decode() for line in forms.lines]
    assert not (tmp_path / "a.parquet.metrics.json").exists()
    assert "AUC" not in capsys.readouterr().out


@pytest.mark.parametrize("form", FORMS)
def test_labels_may_be_left_alone(forms, tmp_path, form):
    labels = "auto" if form in ("raw", "gz") else "false"
    name = "day_1.parquet" if form == "parquet" else "day_1"
    source = forms.of(form) if form == "packed" else str(getattr(forms, form) / name)
    if form in ("raw", "gz"):
        lines = [line.partition(b"\t")[2] for line in forms.lines]
        (tmp_path / "plain").write_bytes(b"\n".join(lines))
        source = str(tmp_path / "plain")
    predict_alone(forms, tmp_path / "a.npy", input=[source], labels=labels)
    assert not (tmp_path / "a.npy.metrics.json").exists()


def test_a_missing_label_is_not_counted(forms, tmp_path):
    table = pq.read_table(forms.parquet / "day_0.parquet")
    labels = [None if at % 3 == 0 else value for at, value in enumerate(table["label"].to_pylist())]
    missing = table.set_column(table.column_names.index("label"), "label", pa.array(labels, pa.float64()))
    pq.write_table(missing, tmp_path / "a.parquet")
    predict_alone(forms, tmp_path / "b.npy", input=[str(tmp_path / "a.parquet")])
    figures = json.loads((tmp_path / "b.npy.metrics.json").read_text())["tasks"]["label"]
    assert figures["samples"] == sum(label is not None for label in labels)


@pytest.mark.parametrize(
    ("kinds", "carry"),
    [
        ({"int_0": pa.float64(), "int_1": pa.int16(), "label": pa.bool_(), "cat_1": pa.large_string()}, "cat_1"),
        ({"int_0": pa.int32(), "cat_0": pa.dictionary(pa.int8(), pa.string()), "label": pa.uint8()}, "cat_0"),
    ],
)
def test_parquet_columns_may_be_of_any_type_that_holds_their_values(forms, expected, tmp_path, kinds, carry):
    table = pq.read_table(forms.parquet)
    for name, kind in kinds.items():
        values = table[name].combine_chunks()
        cast = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
        table = table.set_column(table.column_names.index(name), name, cast)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=33)
    found = pq.read_table(
        predict_alone(forms, tmp_path / "b.parquet", input=[str(tmp_path / "a.parquet")], carry=[carry])
    )
    assert np.array_equal(found["probability"].to_numpy(), expected[:, 0])
    assert found[carry].to_pylist() == table[carry].to_pylist()


def test_an_input_of_no_rows_is_an_output_of_no_rows(forms, tmp_path):
    pq.write_table(pq.read_table(forms.parquet).slice(0, 0), tmp_path / "a.parquet")
    for ending in ("npy", "csv", "parquet"):
        predict_alone(forms, tmp_path / f"b.{ending}", input=[str(tmp_path / "a.parquet")])
    assert np.load(tmp_path / "b.npy").shape == (0, 1)
    assert pq.read_table(tmp_path / "b.parquet").num_rows == 0
    assert (tmp_path / "b.csv").read_text() == '"probability"\n'
