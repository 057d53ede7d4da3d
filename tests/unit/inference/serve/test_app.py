"""A server over real sockets."""

import io
import json
import struct

import numpy as np
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dlrm.inference.features import Features
from tests.support.serving import error_of

ARROW, NPY = "application/vnd.apache.arrow.stream", "application/x-npy"
PREDICT = "/v1/models/default/predict"


@pytest.fixture(scope="module")
def columns(tiny_samples, tiny_predictor):
    """100 raw rows as arrays by column."""
    schema, rows = tiny_predictor.schema, tiny_samples
    dense = {name: rows.dense_BN[:100, n].numpy() for n, name in enumerate(schema.dense)}
    return dense | {feature.name: rows.ids_BS[:100, f].numpy() for f, feature in enumerate(schema.sparse)}


@pytest.fixture(scope="module")
def expected(tiny_samples, tiny_predictor):
    """Their probabilities, float32 (100,)."""
    return tiny_predictor.probabilities(Features.of(tiny_samples)[:100])[:, 0].numpy()


def as_rows(columns, count=100):
    return [{name: values[at].item() for name, values in columns.items()} for at in range(count)]


def structured(columns):
    array = np.empty(100, [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        array[name] = values
    return array


def arrow_stream(table, **options):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, **options) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def npy_file(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def float32s(content):
    """The numbers of JSON, each as the float32 that its text is nearest to; they must be no longer than that takes."""
    texts = json.loads(content, parse_float=str)["probabilities"]["label"]
    found = np.array(texts, np.float32)
    assert texts == [str(number) for number in found]
    return found


def test_every_format_gives_the_predictors_bits(server, columns, expected):
    bodies = {
        "application/json": json.dumps({"rows": as_rows(columns)}).encode(),
        "application/json; charset=utf-8": json.dumps(
            {"columns": {k: v.tolist() for k, v in columns.items()}}
        ).encode(),
        ARROW: arrow_stream(pa.table(columns)),
        NPY: npy_file(structured(columns)),
    }
    for kind, body in bodies.items():
        status, headers, content = server.ask("POST", PREDICT, body, content_type=kind)
        assert status == 200, content
        assert headers["content-type"] == "application/json"
        np.testing.assert_array_equal(float32s(content), expected, kind)


def test_an_answer_says_who_gave_it(server, columns, expected, tiny_predictor):
    status, content = server.predict({"rows": as_rows(columns, 1)})
    assert status == 200
    assert content.pop("probabilities").keys() == {"label"}
    assert content == {"model": "default", "export": tiny_predictor.folder.checksum, "step": 8}


def test_an_arrow_answer_has_the_same_bits(server, columns, expected):
    body = json.dumps({"rows": as_rows(columns)}).encode()
    for accept in (ARROW, f"text/html, {ARROW};q=0.9, */*;q=0.1"):
        status, headers, content = server.ask("POST", PREDICT, body, content_type="application/json", accept=accept)
        assert (status, headers["content-type"]) == (200, ARROW)
        table = pa.ipc.open_stream(content).read_all()
        assert table.schema.field("label").type == pa.float32()
        np.testing.assert_array_equal(table["label"].to_numpy(), expected)
        assert table.schema.metadata[b"step"] == b"8"


def test_many_rows_are_answered_in_order(server, columns, expected):
    rows = as_rows(columns) * 3
    body = json.dumps({"rows": rows}).encode()
    status, _, content = server.ask("POST", PREDICT, body, content_type="application/json")
    assert status == 200, content
    np.testing.assert_array_equal(float32s(content), np.tile(expected, 3))


def test_models_are_described(server, tiny_predictor):
    status, _, content = server.ask("GET", "/v1/models")
    (model,) = json.loads(content)
    assert status == 200
    assert json.loads(server.ask("GET", "/v1/models/default")[2]) == model
    assert [column["name"] for column in model["columns"]] == [
        *tiny_predictor.schema.dense,
        *(feature.name for feature in tiny_predictor.schema.sparse),
    ]
    assert (model["tasks"], model["step"], model["precision"]) == (["label"], 8, ["fp32"])
    assert model["export"] == tiny_predictor.folder.checksum
    assert server.predict({"rows": [model["example"]]})[0] == 200


def test_health_and_readiness(server):
    assert server.ask("GET", "/healthz")[0] == 200
    assert server.ask("GET", "/readyz")[0] == 200


def test_openapi_describes_what_is_answered(server):
    content = json.loads(server.ask("GET", "/openapi.json")[2])
    predict = content["paths"]["/v1/models/{name}/predict"]["post"]
    assert {"/v1/models", "/v1/models/{name}", "/healthz", "/readyz", "/metrics"} < set(content["paths"])
    example = predict["requestBody"]["content"]["application/json"]["example"]
    assert server.predict(example)[0] == 200
    assert set(predict["requestBody"]["content"]) == {"application/json", ARROW, NPY, "text/tab-separated-values"}


def samples(server):
    families = text_string_to_metric_families(server.ask("GET", "/metrics")[2].decode())
    return {(one.name, *sorted(one.labels.items())): one.value for family in families for one in family.samples}


def test_metrics_count(server, columns):
    before = samples(server)
    assert server.predict({"rows": as_rows(columns, 7)})[0] == 200
    assert server.predict({"rows": [{"nothing": 1}]})[0] == 422
    after = samples(server)

    def grown(name, **labels):
        key = (name, *sorted(labels.items()))
        return after[key] - before.get(key, 0)

    model = {"model": "default"}
    assert grown("dlrm_requests_total", code="200", **model) == 1
    assert grown("dlrm_requests_total", code="422", **model) == 1
    assert grown("dlrm_rejected_total", cause="bad_rows") == 1
    assert grown("dlrm_rows_total", **model) == 7
    assert grown("dlrm_batch_rows_count", **model) == 1
    assert grown("dlrm_batch_rows_sum", **model) == 7
    for stage in ("parse", "queue", "compute"):
        assert grown("dlrm_stage_seconds_count", stage=stage, **model) == 1
    assert after["dlrm_export_step", ("model", "default")] == 8
    assert after["dlrm_model_loads_total", ("model", "default"), ("outcome", "loaded")] == 1
    assert after["dlrm_queue_rows", ("model", "default")] == 0
    assert after["dlrm_held_bytes",] == 0
    assert after["dlrm_ready",] == 1
    assert after["process_resident_memory_bytes",] > 0


ROW = {"cat_0": 1, "cat_1": 2, "cat_2": 3, "cat_3": 4, "cat_4": 0, "int_0": 0.5, "int_1": 1, "int_2": 2, "int_3": 3}


@pytest.mark.parametrize(
    ("body", "status", "where", "problem"),
    [
        (b"", 400, (None, None), "line 1, column 1"),
        (b"{", 400, (None, None), "column 2"),
        (b'{"rows": [{]}', 400, (None, None), "line 1, column 12"),
        (b"\xff\xfe", 400, (None, None), "byte 1 is 0xff"),
        (b'\xef\xbb\xbf{"rows": []}', 400, (None, None), "byte order mark"),
        (b"[" * 90_000, 400, (None, None), "nested too deeply"),
        (b'{"rows": [{"int_0": NaN}]}', 400, (None, None), "NaN is not JSON"),
        (b'{"rows": [{"int_0": -Infinity}]}', 400, (None, None), "-Infinity is not JSON"),
        (b'{"rows": [{"int_0": 1, "int_0": 1}]}', 400, (None, None), "'int_0' is given twice"),
        (b'{"rows": [{"int_0": ' + b"9" * 5000 + b"}]}", 400, (None, None), "too long"),
        ([], 422, (None, None), "no object"),
        ({}, 422, (None, None), "0 keys"),
        ({"rows": [], "columns": {}}, 422, (None, None), "2 keys"),
        ({"row": {}}, 422, (None, None), "'row'"),
        ({"rows": {}}, 422, (None, None), "no list"),
        ({"rows": []}, 422, (None, None), "no rows"),
        ({"columns": {}}, 422, (None, None), "no columns"),
        ({"columns": {"cat_0": []}}, 422, (None, None), "no rows"),
        ({"columns": []}, 422, (None, None), "a list"),
        ({"columns": {"cat_0": 1}}, 422, (None, "cat_0"), "not a list"),
        ({"columns": {"cat_0": [1], "cat_1": [1, 2]}}, 422, (None, "cat_1"), "2 values"),
        ({"rows": [1]}, 422, (1, None), "an object"),
        ({"rows": [ROW, ROW | {"cat_0": 40}]}, 422, (2, "cat_0"), "outside of its table"),
        ({"rows": [ROW | {"cat_0": -1}]}, 422, (1, "cat_0"), "outside of its table"),
        ({"rows": [ROW | {"cat_0": "x"}]}, 422, (1, "cat_0"), "not a whole number"),
        ({"rows": [ROW | {"cat_0": True}]}, 422, (1, "cat_0"), "not a whole number"),
        ({"rows": [ROW | {"cat_0": 1.5}]}, 422, (1, "cat_0"), "not a whole number"),
        ({"rows": [ROW | {"cat_0": 10**300}]}, 422, (1, "cat_0"), "outside of its table"),
        ({"rows": [ROW | {"int_3": 1e39}]}, 422, (1, "int_3"), "not finite"),
        (json.dumps({"rows": [ROW]}).replace("0.5", "1e999").encode(), 422, (1, "int_0"), "not finite"),
        ({"rows": [ROW | {"int_0": None}]}, 422, (1, "int_0"), "missing"),
        ({"rows": [ROW | {"int_0": "\ud800"}]}, 422, (1, "int_0"), "not a number"),
        ({"rows": [ROW | {"int_9": 1}]}, 422, (1, "int_9"), "no such column"),
        ({"rows": [ROW] * 301}, 413, (None, None), "301 rows"),
        ({"columns": {"cat_0": [1] * 301}}, 413, (None, None), "301 rows"),
        (b" " * 100_001, 413, (None, None), "100001 bytes"),
    ],
)  # fmt: skip
def test_wrong_json_is_refused_by_the_place_of_the_mistake(server, body, status, where, problem):
    found, content = server.predict(body)
    error = error_of(content)
    assert (found, (error["row"], error["column"])) == (status, where), error
    assert problem in error["problem"]


def good_arrow():
    return arrow_stream(pa.table({name: [value] for name, value in ROW.items()}))


def with_rows(stream, rows):
    """A stream of columns of nulls with another number of rows: they need no bytes."""
    before = struct.pack("<q", 1234567)
    assert stream.count(before) > 1
    return stream.replace(before, struct.pack("<q", rows))


ZEROS = pa.array(np.zeros(1_000_000))
NULLS = arrow_stream(pa.table({"int_0": pa.nulls(1234567)}))


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b"", 400, "no whole Arrow stream"),
        (b"ARROW1\0\0", 400, "no whole Arrow stream"),
        (good_arrow()[:-30], 400, "no whole Arrow stream"),
        (good_arrow()[:100], 400, "no whole Arrow stream"),
        (arrow_stream(pa.table({"int_0": ZEROS}), options=pa.ipc.IpcWriteOptions(compression="zstd")), 415, "compressed"),
        (arrow_stream(pa.table({"int_0": [1.0]}).slice(0, 0)), 422, "no rows"),
        (arrow_stream(pa.table({"int_0": [1.0]})), 422, "int_1"),
        (arrow_stream(pa.table({name: [str(value)] for name, value in ROW.items()})), 422, "string"),
        (arrow_stream(pa.table({"cat_0": pa.array(["a"], pa.string_view())})), 422, "cat_0 is of type 'string_view'"),
        (arrow_stream(pa.table({"cat_0": pa.array([["a"]], pa.list_(pa.string_view()))})), 422, "cat_0 is of type"),
        (NULLS, 413, "1234567 rows"),
        (with_rows(NULLS, 2**62), 413, f"{2**62} rows"),
    ],
)  # fmt: skip
def test_wrong_arrow_is_refused(server, body, status, problem):
    found, _, content = server.ask("POST", PREDICT, body, content_type=ARROW)
    error = error_of(content)
    assert found == status, error
    assert problem in f"{error['column']} {error['problem']}"


def npy_header(text, version=b"\x01\x00"):
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b"", 400, "no npy file"),
        (npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\n") + b"\0" * 4, 422, "float32"),
        (npy_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}\n") + b"\0" * 4, 400, "cut short"),
        (npy_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1125899906842624,)}\n"), 413, "rows"),
        (npy_header("{'descr': [('a', '<V0')], 'fortran_order': False, 'shape': (1125899906842624,)}\n"), 422, "type"),
        (npy_header("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}\n") + b"\0" * 8, 422, "type"),
        (npy_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (-1,)}\n"), 422, "shape"),
        (npy_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 1)}\n") + b"\0" * 4, 422, "shape"),
        (npy_header("__import__('os').getcwd()\n"), 400, "no npy file"),
        (npy_header("{'descr': ", b"\x03\x00"), 415, "version"),
        (npy_file(np.zeros(1, [("a", "<c8")])), 422, "complex64"),
        (npy_file(np.array([(b"\xff",)], [("a", "S1")])), 422, "UnicodeDecodeError"),
        (npy_file(np.full(1, 0x110000, [("a", "<u4")])).replace(b"<u4", b"<U1"), 422, "Unicode"),
        (npy_file(np.full(1, 0x110000, [("a", ">u4")])).replace(b">u4", b">U1"), 422, "Unicode"),
        (npy_file(np.full(1, 0xD800, [("a", "<u4")])).replace(b"<u4", b"<U1"), 422, "UnicodeEncodeError"),
        (npy_file(np.zeros(1, [("int_0", "<f4")])), 422, "int_1"),
    ],
)  # fmt: skip
def test_wrong_npy_is_refused(server, body, status, problem):
    found, _, content = server.ask("POST", PREDICT, body, content_type=NPY)
    error = error_of(content)
    assert found == status, error
    assert problem in f"{error['column']} {error['problem']}"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "problem"),
    [
        ("POST", "/v1/models/defualt/predict", {}, 404, "no model defualt"),
        ("POST", "/v1/models/%00%1b[2J/predict", {}, 404, "no model"),
        ("GET", PREDICT, {}, 405, "only POST"),
        ("POST", PREDICT, {"content_type": ""}, 415, "no content type"),
        ("POST", PREDICT, {"content_type": "text/html"}, 415, "text/html"),
        ("POST", PREDICT, {"content_type": "application/json; charset=latin-1"}, 415, "latin-1"),
        ("POST", PREDICT, {"content_encoding": "gzip"}, 415, "gzip"),
        ("POST", PREDICT, {"accept": "text/html"}, 406, "text/html"),
        ("POST", PREDICT + "?batch=1", {}, 400, "batch"),
        ("POST", PREDICT + "?timeout_ms=soon", {}, 400, "timeout_ms"),
        ("POST", PREDICT + "?labelled=true", {}, 400, "labelled"),
        ("GET", "/nothing", {}, 404, "/nothing"),
        ("GET", "/v1/models/defualt", {}, 404, "no model defualt"),
        ("POST", "/healthz", {}, 405, "/healthz"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(server, method, path, headers, status, problem):
    body = json.dumps({"rows": [ROW]}).encode()
    found, _, content = server.ask(method, path, body, **{"content_type": "application/json", **headers})
    error = error_of(content)
    assert found == status, error
    assert problem in error["problem"]
    assert content.isascii()


def test_an_unknown_model_is_told_the_nearest_name(server):
    assert error_of(server.predict({}, "defualt")[1])["hint"] == "did you mean default?"


def test_tab_separated_rows_are_refused_by_a_model_of_numbers_and_ids(server):
    status, _, content = server.ask("POST", PREDICT, b"1\t2\n", content_type="text/tab-separated-values")
    assert status == 422
    assert "does not take" in error_of(content)["problem"]


def test_other_addresses_refuse_as_predictions_do(server):
    status, headers, content = server.ask("DELETE", "/metrics")
    assert (status, headers["allow"], headers["content-type"]) == (405, "GET", "application/json")
    assert content.endswith(b"}\n")
    name = "/v1/models/" + "%C3%A4" * 2000
    assert len(error_of(server.ask("GET", name)[2])["problem"]) <= 500


def test_a_request_in_pieces_has_waited_once(server, columns):
    before = samples(server)
    assert server.predict({"rows": as_rows(columns, 10) * 30})[0] == 200  # more than a batch of 256
    after = samples(server)
    model = ("model", "default")
    for stage, times in (("queue", 1), ("compute", 2)):
        key = ("dlrm_stage_seconds_count", model, ("stage", stage))
        assert after[key] - before[key] == times
