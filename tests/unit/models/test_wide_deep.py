"""Wide & Deep against its definition in float64."""

import numpy as np
import pytest

from dlrm.config.model import WideDeepModel
from dlrm.errors import ConfigError
from dlrm.schema import Schema
from tests.unit.models.helpers import assert_logits_by_hand, cpu_model, mlp_by_hand


def by_hand(weights, dense_N, pooled):
    tasks = len(weights["linear.bias"])
    wide_T = weights["linear.bias"] + sum(row[-tasks:] for row in pooled)
    if len(dense_N):
        wide_T = wide_T + weights["linear.weight"] @ dense_N
    deep = np.concatenate([dense_N, *(row[:-tasks] for row in pooled)])
    return wide_T + mlp_by_hand(deep, weights, "deep_mlp")


@pytest.mark.parametrize("num_dense", [3, 0])
@pytest.mark.parametrize("tasks", [("click",), ("click", "like", "follow")])
def test_logits_are_those_of_the_definition(num_dense, tasks):
    config = WideDeepModel(embedding_dim=8, deep_mlp=(6, 4))
    model = assert_logits_by_hand(config, by_hand, num_dense=num_dense, tasks=tasks)
    assert model.groups == ["linear", "deep_mlp"]


def test_a_row_needs_room_for_a_vector_beside_the_weights():
    with pytest.raises(ConfigError, match=r"model\.embedding_dim: is 4, .*: it needs 5"):
        cpu_model(WideDeepModel(embedding_dim=4), Schema.numbered(1, (5,), tasks=tuple("abcd")))
