"""Models behind batchers are asked by clients and by arrivals, and what becomes of requests is seen."""

import threading

import numpy as np
import pytest
import torch

from dlrm.inference.benchmark.measure import Arrivals
from dlrm.inference.benchmark.requests import Requests
from dlrm.inference.benchmark.serving import Serving
from dlrm.inference.serve.waiting import Limits
from tests.unit.inference.serve.fakes import FakeModel, rows


class Encoder:
    """Counts what it encodes."""

    def __init__(self):
        self.encoded = 0

    def from_json(self, raw):
        self.encoded += 1
        return rows(*(row["d"] for row in raw))


def requests():
    raw = [[{"d": number}] for number in range(8)]
    return Requests(raw, [rows(of_one[0]["d"]) for of_one in raw], Encoder())


def serving(*models, given="features", threads=1, limits=None, timeout_s=float("inf"), asked=None):
    asked = asked or [requests() for _ in models]
    return Serving(models, asked, given=given, limits=limits or Limits(4), threads=threads, timeout_s=timeout_s)


def test_clients_ask_again_and_again_and_batches_fill_up():
    model = FakeModel()
    with serving(model) as server:
        seen = server.closed(8, 0.2, bound_s=60.0)
    assert seen.kind == "closed"
    assert seen.clients == 8
    assert seen.requests == seen.answered == sum(len(batch) for batch in model.batches) > 8
    assert max(len(batch) for batch in model.batches) == 4
    assert seen.within == 1.0
    assert {number for batch in model.batches for number in batch} == set(range(8))


def test_clients_are_divided_between_models():
    models = FakeModel(), FakeModel()
    with serving(*models) as server:
        seen = server.closed(4, 0.2, bound_s=60.0)
    answered = [sum(len(batch) for batch in model.batches) for model in models]
    assert [round(one.requests_per_s * seen.seconds) for one in seen.models] == answered
    assert min(answered) > 1


def test_arrivals_are_answered_each_once():
    model = FakeModel()
    with serving(model, threads=2) as server:
        seen = Arrivals(server, 1, 60.0, np.random.default_rng(1)).run(1000.0, 0.3)
    assert seen.requests == seen.answered == 300
    assert sorted(number for batch in model.batches for number in batch) == sorted(n % 8 for n in range(300))
    assert seen.rate_per_s == 1000.0
    assert seen.meets


def test_raw_requests_are_encoded_each_time():
    asked = requests()
    with serving(FakeModel(), given="raw", asked=[asked]) as server:
        seen = Arrivals(server, 1, 60.0, np.random.default_rng(1)).run(1000.0, 0.2)
    assert asked.preprocessing.encoded == seen.requests == 200


def test_requests_beyond_the_queue_are_shed_and_a_lost_run_leaves_nothing_behind():
    model = FakeModel()
    model.free.clear()
    with serving(model, limits=Limits(4, max_queue_rows=6)) as server:
        threading.Timer(0.3, model.free.set).start()
        seen = Arrivals(server, 1, 60.0, np.random.default_rng(1)).run(1e6, 0.0002)
        assert seen.shed > 0
        assert seen.gave_up
        assert not seen.meets
        assert model.free.wait(60)
        before = sum(len(batch) for batch in model.batches)
        assert before <= 8  # what was begun; the rest, which nobody waits for, is not computed
        assert server.closed(1, 0.05, bound_s=60.0).answered > 0


def test_requests_that_wait_too_long_expire():
    model = FakeModel()
    model.free.clear()
    with serving(model, limits=Limits(1), timeout_s=0.01) as server:
        threading.Timer(0.3, model.free.set).start()
        seen = server.closed(3, 0.4, bound_s=60.0)
    assert seen.expired >= 2
    assert seen.answered == seen.requests - seen.expired


def test_what_a_model_raises_ends_the_run():
    class Broken(FakeModel):
        def probabilities(self, features: object) -> torch.Tensor:
            raise RuntimeError("broken")

    with serving(Broken()) as server, pytest.raises(RuntimeError, match="broken"):
        server.closed(1, 0.1, bound_s=1.0)
    with serving(Broken()) as server, pytest.raises(RuntimeError, match="broken"):
        Arrivals(server, 1, 1.0, np.random.default_rng(1)).run(1000.0, 0.1)
