"""The vocabulary of rows on several gloo ranks is that of one process with all of them."""

import numpy as np
import pytest
import torch

from dlrm.config.prepare import ContiguousVocabulary
from dlrm.distributed.collectives import OneProcess, ProcessGroup
from dlrm.errors import DataError
from dlrm.prepare.preprocess import vocabulary
from dlrm.prepare.preprocess.vocabulary import build_vocabulary
from dlrm.testing.ranks import run_ranks
from tests.unit.prepare.preprocess.columns import present, skewed_column


def configs(world_size):
    """Bits, counts whose sum fits a byte and, on two ranks, counts whose sum does not."""
    min_counts = (1, 2, 5, 200) if world_size == 2 else (1, 2, 5)
    counting = [ContiguousVocabulary(min_count=min_count) for min_count in min_counts]
    return [*counting, ContiguousVocabulary(of="all", reserved="mlperf")]


def column():
    """Values that lie close together but for a few, so that ranks touch little memory."""
    categories, is_missing = skewed_column(rows=3000)
    categories[20:] %= 2**26
    return categories, is_missing


def shares_of_rows(world_size, idle_rank):
    """Each rank's rows; one of them has none."""
    working = [rank for rank in range(world_size) if rank != idle_rank]
    edges = np.linspace(0, 3000, len(working) + 1).astype(int)
    shares = dict(zip(working, map(slice, edges[:-1], edges[1:]), strict=True))
    return [shares.get(rank, slice(0, 0)) for rank in range(world_size)]


def built_on_rank(rank, world_size, few_rows, shares):
    vocabulary._FEW_ROWS = few_rows
    vocabulary._MERGE_BYTES = 1 << 20  # several exchanges
    categories, is_missing = column()
    columns = [(categories[shares[rank]], is_missing[shares[rank]])]
    return [
        build_vocabulary(lambda: columns, config, threads=2, collectives=ProcessGroup()).tolist()
        for config in configs(world_size)
    ]


@pytest.mark.parametrize("few_rows", [0, 1 << 20])
@pytest.mark.parametrize(("world_size", "idle_rank"), [(1, None), (2, None), (3, 0)])
def test_every_rank_has_the_vocabulary_of_all_rows(world_size, idle_rank, few_rows):
    categories, is_missing = column()
    expected = []
    for config in configs(world_size):
        counted = categories if config.reserved == "mlperf" else categories[~is_missing]
        values, counts = np.unique(counted, return_counts=True)
        expected.append(values[counts >= config.min_count].tolist())
    assert all(expected)
    shares = shares_of_rows(world_size, idle_rank)
    assert run_ranks(built_on_rank, world_size, few_rows, shares) == [expected] * world_size


def built_where_one_rank_has_many_rows(rank, world_size):
    vocabulary._FEW_ROWS = 100
    rows = present(*range(rank, 1000 if rank == 1 else 20))
    return build_vocabulary(lambda: [rows], ContiguousVocabulary(), threads=1, collectives=ProcessGroup()).tolist()


def test_ranks_agree_on_how_to_count_where_only_one_has_many_rows():
    assert run_ranks(built_where_one_rank_has_many_rows, 2) == [list(range(1000))] * 2


def error_of_rank_1(rank, world_size, few_rows):
    vocabulary._FEW_ROWS = few_rows

    def columns():
        yield present(rank)
        if rank == 1:
            raise DataError("chunk_7", "is cut off")

    with pytest.raises(DataError) as caught:
        build_vocabulary(columns, ContiguousVocabulary(), threads=1, collectives=ProcessGroup())
    return str(caught.value)


@pytest.mark.parametrize("few_rows", [0, 1 << 20])
def test_a_column_that_one_rank_cannot_read_is_every_ranks_error(few_rows):
    assert run_ranks(error_of_rank_1, 2, few_rows) == ["chunk_7: is cut off"] * 2


def bits_of_all(rank, world_size):
    tensor = torch.tensor([1 << rank, -(2**63) if rank == 2 else 0, 0])
    ProcessGroup().all_reduce_or_(tensor)
    return tensor.tolist()


def test_the_bitwise_or_has_the_bits_of_every_rank():
    assert run_ranks(bits_of_all, 3) == [[7, -(2**63), 0]] * 3
    alone = torch.tensor([5, 6])
    OneProcess().all_reduce_or_(alone)
    assert alone.tolist() == [5, 6]
