"""Too much to do, and the end of a server; the model is one that can be held up."""

import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from dlrm.inference.serve.models import ServedModel
from dlrm.inference.serve.waiting import Queue
from tests.support.serving import PATIENCE_S, ServerHere, error_of


class Held:
    """The tiny predictor, computing while ``free`` is set; ``busy`` is released for each batch that was begun."""

    def __init__(self, predictor):
        self._predictor, self.schema = predictor, predictor.schema
        self.free, self.busy, self.fails = threading.Event(), threading.Semaphore(0), False

    def probabilities(self, features):
        self.busy.release()
        assert self.free.wait(PATIENCE_S)
        if self.fails:
            raise RuntimeError("the model is broken: \x1b[2J")
        return self._predictor.probabilities(features)


@pytest.fixture
def held(tiny_model):
    return Held(tiny_model.version.predictor)


@pytest.fixture
def start(tiny_model, held):
    """Starts a server of one thread, whose model is computing one request already; its answer is the second value."""
    running = []

    def started(**options):
        version = replace(tiny_model.version, queue=Queue(held, "default"))
        models = {"default": ServedModel("default", tiny_model.path, False, version)}
        server = ServerHere(models, threads=1, timeout_ms=60_000, **options).__enter__()
        running.append(server)
        row = {"rows": [tiny_model.version.preprocessing.example()]}
        pool = ThreadPoolExecutor(16)
        first = pool.submit(server.predict, row)
        assert held.busy.acquire(timeout=PATIENCE_S)
        return server, first, row, pool

    yield started
    held.free.set()
    for server in running:
        server.__exit__()


def wait_for_rows(server, rows):
    for _ in range(1000):
        text = server.ask("GET", "/metrics")[2].decode()
        if f'dlrm_queue_rows{{model="default"}} {rows}.0' in text:
            return
        threading.Event().wait(0.01)
    raise AssertionError(text)


def test_a_full_queue_is_said_at_once_and_what_waits_is_answered(start, held):
    server, first, row, pool = start(max_queue_rows=4, max_request_rows=4)
    waiting = [pool.submit(server.predict, {"rows": row["rows"] * 2}) for _ in range(2)]
    wait_for_rows(server, 4)
    status, headers, content = server.ask(
        "POST", "/v1/models/default/predict", json.dumps(row).encode(), content_type="application/json"
    )
    assert (status, headers["retry-after"]) == (503, "1")
    assert "4 rows wait" in error_of(content)["problem"]
    held.free.set()
    assert [done.result(PATIENCE_S)[0] for done in [first, *waiting]] == [200] * 3


def test_who_waits_longer_than_his_time_is_told_so(start, held):
    server, first, row, pool = start()
    late = pool.submit(server.predict, row, "default", "?timeout_ms=20")
    wait_for_rows(server, 1)
    threading.Event().wait(0.05)
    held.free.set()
    status, content = late.result(PATIENCE_S)
    assert status == 504
    assert "not computed" in error_of(content)["problem"]
    assert first.result(PATIENCE_S)[0] == 200


@pytest.mark.parametrize("option", [{"max_requests": 2}, {"max_held_bytes": 1900, "max_body_bytes": 1900}])
def test_requests_and_bytes_are_bounded(start, held, option):
    server, first, row, pool = start(**option)
    padded = json.dumps(row).encode().ljust(1000)
    second = pool.submit(server.predict, padded)
    wait_for_rows(server, 1)
    status, content = server.predict(padded)
    assert status == 503
    assert next(iter(option)) in error_of(content)["problem"]
    held.free.set()
    first.result(PATIENCE_S)
    second.result(PATIENCE_S)
    assert server.predict(row)[0] == 200


@pytest.mark.parametrize("size", [400_000, 500_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_alone_may_have_all_the_bytes_that_are_held(tiny_model, size, chunked):
    row = {"rows": [tiny_model.version.preprocessing.example()]}
    body = json.dumps(row).encode().ljust(size)
    with ServerHere({"default": tiny_model}, max_held_bytes=500_000, max_body_bytes=500_000) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        parts = (body[start : start + 10_000] for start in range(0, size, 10_000)) if chunked else body
        headers = {"Content-Type": "application/json"} | ({"Transfer-Encoding": "chunked"} if chunked else {})
        connection.request("POST", "/v1/models/default/predict", parts, headers, encode_chunked=chunked)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["step"]) == (200, tiny_model.version.step)
        connection.close()
        assert "dlrm_held_bytes 0.0" in server.ask("GET", "/metrics")[2].decode()


def test_a_model_that_fails_is_a_500_that_tells_its_kind_and_the_server_goes_on(start, held, capsys):
    held.fails = True
    server, first, row, _ = start()
    held.free.set()
    status, content = first.result(PATIENCE_S)
    assert (status, error_of(content)["problem"]) == (500, "the server failed (RuntimeError)")
    assert r"the model is broken: \x1b[2J" in capsys.readouterr().out
    held.fails = False
    assert server.predict(row)[0] == 200


def test_the_end_answers_what_is_here_and_takes_nothing_new(start, held):
    server, first, row, pool = start(linger_s=0.5)
    second = pool.submit(server.predict, row)
    wait_for_rows(server, 1)
    server.end()
    for _ in range(1000):
        status, _, content = server.ask("GET", "/readyz")
        if status == 503:
            break
    assert json.loads(content) == {"status": "ending"}
    assert server.ask("GET", "/healthz")[0] == 200
    for _ in range(1000):
        try:
            server.ask("GET", "/healthz")
        except ConnectionError:
            break
        threading.Event().wait(0.01)
    else:
        raise AssertionError("it still listens")
    held.free.set()
    assert [done.result(PATIENCE_S)[0] for done in (first, second)] == [200, 200]
    server._thread.join(PATIENCE_S)
    assert not server.server.cut_short


def test_an_end_that_takes_too_long_is_cut_short(start, held):
    server, first, _, _ = start(drain_s=1)
    server.end()
    server._thread.join(PATIENCE_S)
    assert server.server.cut_short
    assert first.exception(PATIENCE_S) is not None or first.result()[0] >= 500
    held.free.set()


def test_rows_of_all_requests_are_in_one_batch_and_each_gets_its_own(start, held, tiny_model):
    server, first, row, pool = start()
    rows = [row["rows"][0] | {"int_0": number / 8} for number in range(8)]
    asked = [pool.submit(server.predict, {"rows": [one]}) for one in rows]
    wait_for_rows(server, 8)
    held.free.set()
    version = tiny_model.version
    expected = version.predictor.probabilities(version.preprocessing.from_json(rows))[:, 0].tolist()
    found = [done.result(PATIENCE_S)[1]["probabilities"]["label"][0] for done in asked]
    assert torch.tensor(found, dtype=torch.float32).tolist() == expected
    assert len(set(expected)) == 8
    assert first.result(PATIENCE_S)[0] == 200
