"""FinalMLP against its definition in float64: gates, streams, and the bilinear form as a double sum."""

import numpy as np
import pytest

from dlrm.config.model import FinalMlpModel
from dlrm.errors import ConfigError
from dlrm.schema import Schema
from tests.unit.models.helpers import assert_logits_by_hand, cpu_model, mlp_by_hand

SIZES = {"embedding_dim": 4, "stream1": (7, 6), "stream2": (8,), "gates": (5,)}
HEADS = 2


def by_hand(weights, dense_N, pooled, contexts=((), ())):
    x = np.concatenate([dense_N, *pooled])
    outputs = []
    for number, columns in enumerate(contexts, start=1):
        gated = x
        if any(name.startswith(f"gate{number}") for name in weights):
            context = x[list(columns)] if columns else weights[f"gate{number}.context"][0]
            gated = 2 / (1 + np.exp(-mlp_by_hand(context, weights, f"gate{number}.gate"))) * x
        outputs.append(mlp_by_hand(gated, weights, f"stream{number}", relu_last=True))
    one, two = outputs
    logits = []
    for task, bias in enumerate(weights["fusion.first.bias"]):
        logit = bias + weights["fusion.first.weight"][task] @ one + weights["fusion.second.weight"][task] @ two
        for head in range(HEADS):
            left, right = np.split(one, HEADS)[head], np.split(two, HEADS)[head]
            w = weights[f"fusion.products.{head}.weight"]
            for i, a in enumerate(left):
                for j, b in enumerate(right):
                    logit += a * w[task * len(right) + j, i] * b
        logits.append(logit)
    return logits


@pytest.mark.parametrize("num_dense", [3, 0])
@pytest.mark.parametrize("gates", [(5,), ()])
def test_logits_are_those_of_the_definition(num_dense, gates):
    config = FinalMlpModel(**{**SIZES, "gates": gates}, fusion_heads=HEADS, embedding_init_bound=1.0)
    model = assert_logits_by_hand(config, by_hand, num_dense=num_dense)
    assert model.groups == [*(["gate1", "gate2"] if gates else []), "stream1", "stream2", "fusion"]


def test_gates_may_depend_on_features_by_name():
    tables = {"cat_1": {"embedding_dim": 8}}
    config = FinalMlpModel(
        **SIZES, tables=tables, fusion_heads=HEADS, gate_features1=["int_1", "cat_1"], gate_features2=["cat_2"]
    )
    columns = (1, *range(3 + 4, 3 + 4 + 8)), tuple(range(3 + 4 + 8, 3 + 4 + 8 + 4))
    model = assert_logits_by_hand(config, lambda *inputs: by_hand(*inputs, contexts=columns))
    assert model.gate1.context is None


def test_dropout_of_the_streams_is_not_the_same():
    model = cpu_model(FinalMlpModel(stream1=(9, 4), stream2=(9, 4), dropout=0.5), Schema.numbered(1, (5,)))
    assert model.stream1.dropouts[0].key != model.stream2.dropouts[0].key


def test_features_that_the_data_do_not_have_are_refused():
    with pytest.raises(ConfigError) as caught:
        cpu_model(FinalMlpModel(gate_features2=["cat_1", "cat1"]), Schema.numbered(1, (5, 6)))
    message = "model.gate_features2: names cat1, and the data have no such feature; did you mean cat_1?"
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fusion_heads": 3}, r"stream1 ends with 400: must be a multiple of fusion_heads \(3\)"),
        ({"gates": (), "gate_features1": ("a",)}, "gate_features1 and gate_features2 need gates"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        FinalMlpModel(**options)
