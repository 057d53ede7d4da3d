"""Rows of several requests as one batch."""

import torch

from dlrm.inference.features import Features
from dlrm.schema import Schema, SparseFeature

SCHEMA = Schema(("d",), (SparseFeature("a", 10, 2), SparseFeature("b", 2**33)), ("click",))


def rows(count, first, dtype, lengths=None):
    ids_BS = (torch.arange(3 * count).reshape(count, 3) + first).to(dtype)
    return Features(torch.full((count, 1), float(first)), ids_BS, lengths)


def test_ids_of_different_types_and_bags_that_are_full_or_not_are_joined_in_order():
    lengths_BF = torch.tensor([[1, 1]], dtype=torch.int32)
    found = Features.joined([rows(2, 0, torch.int32), rows(1, 2**32, torch.int64, lengths_BF)], SCHEMA)
    assert found.ids_BS.tolist() == [[0, 1, 2], [3, 4, 5], [2**32, 2**32 + 1, 2**32 + 2]]
    assert found.ids_BS.dtype == torch.int64
    assert found.lengths_BF.tolist() == [[2, 1], [2, 1], [1, 1]]
    assert found.dense_BN.flatten().tolist() == [0, 0, 2.0**32]


def test_ids_of_one_type_keep_it():
    found = Features.joined([rows(2, 0, torch.int32), rows(3, 6, torch.int32)], SCHEMA)
    assert found.ids_BS.dtype == torch.int32
    assert found.ids_BS.flatten().tolist() == list(range(15))
    assert found.lengths_BF is None
