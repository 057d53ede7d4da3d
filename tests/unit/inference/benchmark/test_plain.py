"""The plain way computes what the export computes."""

import math

import numpy as np
import pytest
import torch

from dlrm.errors import ExportError
from dlrm.inference.benchmark.observed import Log
from dlrm.inference.benchmark.plain import Plain, numbers_of, trainers_model
from dlrm.inference.benchmark.requests import make_requests
from dlrm.inference.benchmark.rows import made_up_rows
from dlrm.inference.exported.rows import stored_rows
from dlrm.inference.features import Features


@pytest.fixture(scope="module")
def model(tiny_predictor):
    return trainers_model(tiny_predictor.folder)


@pytest.fixture(scope="module")
def requests(tiny_predictor):
    rows = made_up_rows(tiny_predictor.preprocessing, 50, skew=0.5, rng=np.random.default_rng(1))
    return make_requests(tiny_predictor.preprocessing, rows, 2, seed=1)


def test_the_trainers_model_with_the_exports_weights_answers_as_the_export(model, requests, tiny_predictor):
    plain = Plain(model, tiny_predictor.schema, requests, given="features")
    for features in requests.features:
        expected = tiny_predictor.probabilities(features)
        torch.testing.assert_close(plain.probabilities(features), expected, rtol=0, atol=1e-6)


def test_bags_of_several_lengths_are_taken(model, requests, tiny_predictor):
    plain = Plain(model, tiny_predictor.schema, requests, given="features")
    full = requests.features[0]
    lengths_BF = torch.ones(len(full), full.ids_BS.shape[1], dtype=torch.int32)
    lengths_BF[0, 2] = lengths_BF[1, 0] = 0
    shorter = Features(full.dense_BN, full.ids_BS, lengths_BF)
    expected = tiny_predictor.probabilities(shorter)
    torch.testing.assert_close(plain.probabilities(shorter), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(expected, tiny_predictor.probabilities(full), rtol=0, atol=1e-6)


def test_a_request_is_answered_when_it_was_asked(model, requests, tiny_predictor):
    log = Log([0.0] * 3, [0] * 3, math.inf)
    plain = Plain(model, tiny_predictor.schema, requests, given="raw")
    for number in range(3):
        plain.ask(number, log)
    assert [number for number, _ in log.finished] == [0, 1, 2]


def test_rows_in_fewer_bits_are_the_numbers_that_they_stand_for():
    numbers = torch.tensor([[0.5, -1.0], [3.0, 2.0]])
    assert torch.equal(numbers_of(numbers.half(), "fp16"), numbers)
    head = torch.tensor([[0.5, -2.0]]).half().view(torch.uint8)  # scale and bias
    assert numbers_of(torch.cat([head, torch.tensor([[0, 3, 255]], dtype=torch.uint8)], 1), "int8").tolist() == [
        [-2.0, -0.5, 125.5]
    ]
    packed = torch.tensor([[0x1F, 0xA0]], dtype=torch.uint8)  # the first number in the lower half
    assert numbers_of(torch.cat([head, packed], 1), "int4").tolist() == [[5.5, -1.5, -2.0, 3.0]]


@pytest.mark.parametrize(("precision", "levels"), [("int8", 255), ("int4", 15)])
def test_what_fbgemm_has_rounded_is_a_step_away_at_most(precision, levels):
    weights_RD = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    found = numbers_of(stored_rows(weights_RD, precision, path="", table=""), precision)
    step_R1 = (weights_RD.amax(1) - weights_RD.amin(1))[:, None] / levels
    assert ((found - weights_RD).abs() <= 0.51 * step_R1 + 2e-3).all()


def test_a_reduced_dense_part_has_no_trainers_model(tiny_predictor):
    class Reduced:
        path = tiny_predictor.folder.path
        manifest = tiny_predictor.manifest.model_copy(update={"dense_precision": "int8"})

    with pytest.raises(ExportError, match="dense part is int8"):
        trainers_model(Reduced())
