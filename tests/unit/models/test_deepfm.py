"""DeepFM against its definition, computed pair by pair in float64."""

import itertools

import pytest
import torch

from dlrm.config.model import DeepFmModel
from dlrm.layers.fields import pair_products
from dlrm.schema import Schema
from tests.unit.models.helpers import cpu_model, ragged_ids

DIM = 8
ROWS = (5, 9, 30)


def logit_by_hand(model, dense_N, bags):
    """The logit of one sample; ``bags`` holds the ids of each table."""
    rows = []
    for table, ids in zip(model.tables.embedding_bags.values(), bags, strict=True):
        rows.append(sum((table.weight[i].double() for i in ids), torch.zeros(DIM, dtype=torch.float64)))
    if model.dense_fields is not None:
        rows = [x * row for x, row in zip(dense_N.double(), model.dense_fields.weight.double(), strict=True)] + rows
    first = sum(row[-1] for row in rows)
    second = sum(torch.dot(a[:-1], b[:-1]) for a, b in itertools.combinations(rows, 2))
    deep = torch.cat([row[:-1] for row in rows])
    *hidden, last = model.deep_mlp.linears
    for linear in hidden:
        deep = torch.relu(linear.weight.double() @ deep + linear.bias.double())
    return first + second + (last.weight.double() @ deep + last.bias.double()).squeeze()


@pytest.mark.parametrize("num_dense", [3, 0])
def test_logits_and_gradients_are_those_of_the_definition(num_dense):
    schema = Schema.numbered(num_dense, ROWS, [2, 1, 3])
    model = cpu_model(DeepFmModel(embedding_dim=DIM, deep_mlp=(6, 4)), schema, seed=1)
    sparse = ragged_ids(schema, samples=7, longest=3)
    dense_BN = torch.randn(7, num_dense, generator=torch.Generator().manual_seed(2))
    logits_B = model(dense_BN, sparse).squeeze(1)
    bags = [list(feature.values().split(feature.lengths().tolist())) for feature in sparse.to_dict().values()]
    expected_B = torch.stack([logit_by_hand(model, dense_BN[i], [table[i] for table in bags]) for i in range(7)])
    torch.testing.assert_close(logits_B.double(), expected_B, rtol=1e-5, atol=1e-6)
    weights_B = torch.linspace(-1, 2, 7)
    parameters = list(model.parameters())
    found = torch.autograd.grad((logits_B * weights_B).sum(), parameters)
    expected = torch.autograd.grad((expected_B * weights_B).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_pairs_are_each_counted_once():
    vectors_BVD = torch.randn(4, 6, 5, dtype=torch.float64)
    pairs = [(vectors_BVD[:, i] * vectors_BVD[:, j]).sum(1) for i, j in itertools.combinations(range(6), 2)]
    torch.testing.assert_close(pair_products(vectors_BVD), torch.stack(pairs).sum(0))


def test_groups_are_what_the_rates_of_the_model_are_named_by():
    config = DeepFmModel(embedding_dim=DIM)
    assert cpu_model(config, Schema.numbered(2, ROWS)).groups == ["dense_fields", "deep_mlp"]
    assert cpu_model(config, Schema.numbered(0, ROWS)).groups == ["deep_mlp"]


def test_every_weight_outside_of_the_tables_belongs_to_a_group():
    model = cpu_model(DeepFmModel(embedding_dim=DIM), Schema.numbered(2, ROWS))
    model.bias = torch.nn.Parameter(torch.zeros(()))
    assert model.groups == ["bias", "dense_fields", "deep_mlp"]


def test_tables_of_other_widths_are_refused():
    with pytest.raises(ValueError, match=r"tables\.a\.embedding_dim differs"):
        DeepFmModel(embedding_dim=8, tables={"a": {"embedding_dim": 4}})
