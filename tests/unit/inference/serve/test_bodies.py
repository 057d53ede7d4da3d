"""Every format gives the same features, of Criteo's rows too."""

import io
import json
import random

import numpy as np
import pyarrow as pa
import pytest

from dlrm.config.data import CriteoTsvData
from dlrm.data.build import build_dataset
from dlrm.inference.raw import preprocessing_of
from dlrm.inference.serve.bodies import ARROW, JSON, NPY, TSV, features_of, parser_of
from dlrm.inference.serve.refusal import Refusal
from tests.unit.inference.raw.forms import assert_same

FIELDS = [["5", "", "-1", "68fd1e64", "", "0000001a"], ["", "17", "3", "", "80e26c9b", "ffffffff"]] * 30
COLUMNS = ["int_0", "int_1", "int_2", "cat_0", "cat_1", "cat_2"]


@pytest.fixture(scope="module")
def criteo(tmp_path_factory):
    path = tmp_path_factory.mktemp("criteo") / "train.txt"
    path.write_text("".join("\t".join([str(at % 2), *fields]) + "\n" for at, fields in enumerate(FIELDS)))
    data = CriteoTsvData(paths=(str(path),), num_dense=3, num_sparse=3)
    return preprocessing_of(data, build_dataset(data))


def value(column, text):
    if not text:
        return None
    return int(text) if column.startswith("int") else text


ROWS = [dict(zip(COLUMNS, map(value, COLUMNS, fields), strict=True)) for fields in FIELDS]


def of(criteo, kind, body, most_rows=1000, **options):
    return features_of(parser_of(kind, **options), body, criteo, most_rows)


def test_every_format_gives_the_same_features(criteo):
    columns = {name: [row[name] for row in ROWS] for name in COLUMNS}
    expected = criteo.from_json(ROWS)
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=7):
            writer.write_batch(batch)
    kinds = [(name, "<f8" if name.startswith("int") else "S8" if name == "cat_0" else "<U8") for name in COLUMNS]
    rows = [(*(float(text or "nan") for text in fields[:3]), *fields[3:]) for fields in FIELDS]
    array = np.array(rows, kinds)
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    lines = "".join("\t".join(fields) + "\n" for fields in FIELDS).encode()
    labelled = "".join("\t".join(["1", *fields]) + "\n" for fields in FIELDS).encode()
    found = {
        "rows": of(criteo, JSON, json.dumps({"rows": ROWS}).encode()),
        "columns": of(criteo, JSON, json.dumps({"columns": columns}).encode()),
        "arrow": of(criteo, ARROW, sink.getvalue().to_pybytes()),
        "npy": of(criteo, NPY, file.getvalue()),
        "tsv": of(criteo, TSV, lines),
        "tsv without the last line break": of(criteo, TSV, lines[:-1]),
        "labelled": of(criteo, TSV, labelled, labelled=True),
    }
    for features in found.values():
        assert_same(features, expected, criteo.schema)


@pytest.mark.parametrize(
    ("body", "status", "row", "column"),
    [
        (b"", 422, None, None),
        (b"\n", 422, 1, None),
        (b"1\t2\n", 422, 1, None),
        (b"1\t2\t3\ta\tb\tc\n1\t2\t3\ta\tb\txyz\n", 422, 2, "cat_2"),
        (b"1\t2\t3\ta\tb\tc\nx\t2\t3\ta\tb\tc\n", 422, 2, "int_0"),
        (b"\xff\x00\n" * 3, 422, 1, None),
        (b"\n" * 1001, 413, None, None),
    ],
)
def test_wrong_lines_are_refused_by_row_and_column(criteo, body, status, row, column):
    with pytest.raises(Refusal) as caught:
        of(criteo, TSV, body)
    refusal = caught.value
    assert (refusal.status, refusal.row) == (status, row), refusal.problem
    assert column is None or refusal.column == column


def test_changed_bytes_are_features_or_a_refusal(criteo):
    """Whatever the bytes: another exception would be a 500, and memory that is read beyond its end a crash."""
    columns = {name: [row[name] for row in ROWS[:4]] for name in COLUMNS}
    table = pa.table(columns)
    texts = table.set_column(3, "cat_0", table["cat_0"].combine_chunks().dictionary_encode())
    texts = texts.set_column(4, "cat_1", table["cat_1"].cast(pa.large_string()))
    file = io.BytesIO()
    np.save(file, np.array([(1.0, "1a")], [("int_0", "<f4"), ("cat_0", "<U8")]), allow_pickle=False)
    bodies = [(NPY, file.getvalue()), (TSV, "".join("\t".join(fields) + "\n" for fields in FIELDS[:4]).encode())]
    for one in (table, texts):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, one.schema) as writer:
            writer.write_table(one)
        bodies.append((ARROW, sink.getvalue().to_pybytes()))
    choose, statuses = random.Random(8), set()
    for _ in range(2000):
        kind, good = choose.choice(bodies)
        body = bytearray(good)
        for _ in range(choose.choice((1, 1, 2, 5))):
            body[choose.randrange(len(body))] = choose.choice((0, 1, 4, 9, 10, 0x7F, 0x80, 0xFF, choose.randrange(256)))
        try:
            assert len(of(criteo, kind, bytes(body))) <= 1000
            statuses.add(200)
        except Refusal as refusal:
            statuses.add(refusal.status)
            json.loads(refusal.body)
    assert {200, 400, 422} <= statuses <= {200, 400, 413, 415, 422}


def test_rows_after_the_end_of_an_arrow_stream_are_not_dropped_in_silence(criteo):
    table = pa.table({name: [row[name] for row in ROWS] for name in COLUMNS})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream = sink.getvalue().to_pybytes()
    assert len(of(criteo, ARROW, stream[:-8])) == len(ROWS)  # without the mark of its end
    for after in (stream, b"junk"):
        with pytest.raises(Refusal, match=f"{len(after)} bytes follow the end of the stream") as caught:
            of(criteo, ARROW, stream + after)
        assert caught.value.status == 400
