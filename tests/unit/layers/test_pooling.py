import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from dlrm.layers.pooling import PooledColumns

SUMS = torch.tensor([[6.0, 12.0, 1.0], [0.0, 0.0, 2.0], [3.0, 5.0, 4.0]])
BAGS = KeyedJaggedTensor(
    keys=["a", "b"], values=torch.zeros(11, dtype=torch.int64), lengths=torch.tensor([3, 0, 1, 2, 1, 4]), stride=3
)


def test_sums_in_order_are_handed_on_as_they_are():
    assert PooledColumns(["a", "b"], [2, 1], [False, False])(KeyedTensor(["a", "b"], [2, 1], SUMS), BAGS) is SUMS


def test_sums_are_divided_by_the_sizes_of_their_own_bags_and_empty_bags_stay_zero():
    pooled = KeyedTensor(["a", "b"], [2, 1], SUMS)
    assert PooledColumns(["a", "b"], [2, 1], [True, False])(pooled, BAGS).tolist() == [[2, 4, 1], [0, 0, 2], [3, 5, 4]]
    assert PooledColumns(["a", "b"], [2, 1], [False, True])(pooled, BAGS).tolist() == [
        [6, 12, 0.5],
        [0, 0, 2],
        [3, 5, 1],
    ]


def test_neither_the_order_of_tables_nor_of_features_matters():
    shuffled = KeyedTensor(["b", "a"], [1, 2], SUMS[:, [2, 0, 1]])
    bags = KeyedJaggedTensor(keys=["b", "a"], values=BAGS.values(), lengths=torch.tensor([2, 1, 4, 3, 0, 1]), stride=3)
    columns = PooledColumns(["a", "b"], [2, 1], [True, False])
    expected = columns(KeyedTensor(["a", "b"], [2, 1], SUMS), BAGS)
    assert torch.equal(columns(shuffled, bags), expected)


def test_the_mean_of_weighted_ids_is_the_weighted_mean():
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([3, 0, 1, 2, 1, 4])
    weights = torch.rand(11, generator=generator)
    weights[3] = 0  # the only id of its bag
    bags = KeyedJaggedTensor(keys=["a", "b"], values=torch.zeros(11), weights=weights, lengths=lengths, stride=3)
    vectors = torch.randn(11, 2, dtype=torch.float64, generator=generator)
    parts = zip(vectors.split(lengths.tolist()), weights.double().split(lengths.tolist()), strict=True)
    sums = torch.stack([(vectors_LD * weights_L[:, None]).sum(0) for vectors_LD, weights_L in parts])
    totals = torch.stack([part.sum() for part in weights.double().split(lengths.tolist())])[:, None]
    means = torch.where(totals > 0, sums / totals, 0)
    pooled = KeyedTensor(["b", "a"], [2, 2], torch.cat([sums[3:], sums[:3]], dim=1).float())
    found = PooledColumns(["a", "b"], [2, 2], [True, False])(pooled, bags)
    torch.testing.assert_close(found, torch.cat([means[:3], sums[3:]], dim=1).float())
