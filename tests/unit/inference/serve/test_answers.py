import json

import numpy as np
import pyarrow as pa
import pytest

from dlrm.inference.serve.answers import answer_type, arrow_answer, json_answer
from dlrm.inference.serve.bodies import ARROW, JSON
from dlrm.inference.serve.refusal import Refusal


@pytest.fixture
def of_two_tasks(tiny_model, monkeypatch):
    from dlrm.schema import Schema

    monkeypatch.setattr(tiny_model.version.predictor, "schema", Schema.numbered(1, (3,), tasks=('cl"ick', "like")))
    return tiny_model.version


def test_every_float32_is_read_back_from_its_shortest_decimal(of_two_tasks):
    bits = np.random.default_rng(3).integers(0, 0x3F800000, (4000, 2), dtype=np.uint32)  # of [0, 1)
    bits[:4, 0] = [0, 1, 0x007FFFFF, 0x3F7FFFFF]  # 0, the smallest, the largest denormal, the largest below 1
    numbers_BT = bits.view(np.float32)
    content = json.loads(json_answer(of_two_tasks, "a", numbers_BT))
    assert list(content["probabilities"]) == ['cl"ick', "like"]
    found_BT = np.array(list(content["probabilities"].values())).T
    np.testing.assert_array_equal(found_BT.astype(np.float32).view(np.uint32), bits)
    table = pa.ipc.open_stream(arrow_answer(of_two_tasks, "a", numbers_BT)).read_all()
    assert table.column_names == ['cl"ick', "like"]
    np.testing.assert_array_equal(table["like"].to_numpy().view(np.uint32), bits[:, 1])


@pytest.mark.parametrize("write", [json_answer, arrow_answer])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_no_answer(of_two_tasks, write, bad):
    numbers_BT = np.full((5, 2), 0.5, np.float32)
    numbers_BT[3, 1] = bad
    with pytest.raises(Refusal, match="no number") as caught:
        write(of_two_tasks, "a", numbers_BT)
    assert (caught.value.status, caught.value.row) == (422, 4)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("text/html, application/*", JSON),
        (ARROW, ARROW),
        (f"{ARROW}, {JSON}", ARROW),
        (f"{JSON}, {ARROW}", JSON),
    ],
)
def test_a_client_gets_what_it_accepts_first(accept, kind):
    assert answer_type(accept) == kind
