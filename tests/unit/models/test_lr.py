"""Logistic regression by hand."""

import pytest

from dlrm.config.model import LrModel
from dlrm.errors import ConfigError
from dlrm.schema import Schema
from tests.unit.models.helpers import assert_logits_by_hand, cpu_model


def by_hand(weights, dense_N, pooled):
    tasks = len(weights["linear.bias"])
    logits = [weights["linear.bias"][t] + sum(row[t] for row in pooled) for t in range(tasks)]
    if len(dense_N):
        logits = [logit + sum(weights["linear.weight"][t] * dense_N) for t, logit in enumerate(logits)]
    return logits


@pytest.mark.parametrize("num_dense", [3, 0])
@pytest.mark.parametrize("tasks", [("click",), ("click", "like", "follow")])
def test_logits_are_those_of_the_definition(num_dense, tasks):
    model = assert_logits_by_hand(LrModel(), by_hand, num_dense=num_dense, tasks=tasks)
    assert model.groups == ["linear"]
    assert model.tables.embedding_bag_configs()[0].embedding_dim == 4


def test_more_tasks_than_columns_are_refused_with_the_width_that_they_need():
    schema = Schema.numbered(1, (5,), tasks=tuple("abcde"))
    with pytest.raises(ConfigError) as caught:
        cpu_model(LrModel(), schema)
    assert str(caught.value) == "model.embedding_dim: is 4, but a row of lr holds a weight a task here: it needs 5"


def test_dropout_of_units_that_are_not_there_is_refused():
    with pytest.raises(ValueError, match=r"dropout is 0\.5, but lr has no hidden units to drop"):
        LrModel(dropout=0.5)
