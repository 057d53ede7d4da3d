"""The factorisation machine against its definition, pair by pair in float64."""

import itertools

import numpy as np
import pytest

from dlrm.config.model import FmModel
from dlrm.errors import ConfigError
from dlrm.schema import Schema
from tests.unit.models.helpers import assert_logits_by_hand, cpu_model


def by_hand(weights, dense_N, pooled):
    bias_T = weights["linear.bias"]
    tasks, logits = len(bias_T), []
    part = len(pooled[0]) // tasks
    for t, bias in enumerate(bias_T):
        rows = [row[t * part : (t + 1) * part] for row in pooled]
        first, vectors = sum(row[-1] for row in rows), [row[:-1] for row in rows]
        for n, x in enumerate(dense_N):
            first += x * weights["linear.weight"][t, n]
            vectors.append(x * weights["dense_fields.weight"][n, t * (part - 1) : (t + 1) * (part - 1)])
        pairs = itertools.combinations(vectors, 2)
        logits.append(bias + first + sum(float(np.dot(a, b)) for a, b in pairs))
    return logits


@pytest.mark.parametrize("num_dense", [3, 0])
@pytest.mark.parametrize("tasks", [("click",), ("click", "like", "follow")])
def test_logits_are_those_of_the_definition(num_dense, tasks):
    model = assert_logits_by_hand(FmModel(embedding_dim=8), by_hand, num_dense=num_dense, tasks=tasks)
    assert model.groups == ["linear", "dense_fields"][: 1 + (num_dense > 0)]


def test_a_row_without_room_for_the_machines_of_all_tasks_is_refused():
    schema = Schema.numbered(1, (5,), tasks=tuple("abcde"))
    with pytest.raises(
        ConfigError, match=r"model\.embedding_dim: is 8, .* a vector and a weight a task here: it needs 10"
    ):
        cpu_model(FmModel(embedding_dim=8), schema)


def test_tables_of_other_widths_are_refused():
    with pytest.raises(ValueError, match=r"tables\.a\.embedding_dim differs from embedding_dim: fm multiplies"):
        FmModel(embedding_dim=8, tables={"a": {"embedding_dim": 4}})
