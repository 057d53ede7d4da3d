"""xDeepFM against its definition: every sum of equations 6 to 9 as a loop, in float64."""

import numpy as np
import pytest

from dlrm.config.model import XDeepFmModel
from tests.unit.models.helpers import assert_logits_by_hand, mlp_by_hand

CIN = (3, 2)


def by_hand(weights, dense_N, pooled):
    tasks = len(weights["linear.bias"])
    logits_T = weights["linear.bias"] + sum(row[-tasks:] for row in pooled)
    fields = [row[:-tasks] for row in pooled]
    if len(dense_N):
        logits_T = logits_T + weights["linear.weight"] @ dense_N
        fields = [x * v for x, v in zip(dense_N, weights["dense_fields.weight"], strict=True)] + fields
    before, sums = fields, []
    for layer, maps in enumerate(CIN):
        w = weights[f"cin.layers.{layer}.weight"]
        after = []
        for h in range(maps):
            found = np.zeros(len(fields[0]))
            for i, one in enumerate(before):
                for j, field in enumerate(fields):
                    found += w[h, i * len(fields) + j] * one * field
            after.append(found)
        sums += [found.sum() for found in after]
        before = after
    return logits_T + weights["cin_logits.weight"] @ sums + mlp_by_hand(np.concatenate(fields), weights, "deep_mlp")


@pytest.mark.parametrize("num_dense", [3, 0])
@pytest.mark.parametrize("tasks", [("click",), ("click", "like")])
def test_logits_are_those_of_the_definition(num_dense, tasks):
    config = XDeepFmModel(embedding_dim=8, cin=CIN, deep_mlp=(6, 4), embedding_init_bound=1.0)
    model = assert_logits_by_hand(config, by_hand, num_dense=num_dense, tasks=tasks)
    groups = ["linear", "dense_fields", "cin", "cin_logits", "deep_mlp"]
    assert model.groups == [name for name in groups if num_dense or name != "dense_fields"]
