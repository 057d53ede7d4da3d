"""The helper that the other tests of this folder stand on."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from tests.support.ranks import RankError, run_ranks


def own_number(rank, world_size, offset):
    total = torch.tensor(rank + offset)
    dist.all_reduce(total)
    return rank, world_size, total, torch.get_num_threads()


def test_every_rank_runs_in_one_group_and_its_result_comes_back_in_order():
    ranks = run_ranks(own_number, 3, 10)
    assert [rank[:2] for rank in ranks] == [(0, 3), (1, 3), (2, 3)]
    assert [rank[2].item() for rank in ranks] == [33] * 3
    assert [rank[3] for rank in ranks] == [1] * 3


def large_result(rank, world_size):
    return torch.arange(1_000_000)


def test_a_large_tensor_comes_back_whole():
    assert all(torch.equal(found, torch.arange(1_000_000)) for found in run_ranks(large_result, 2))


def trouble_on_rank_1(rank, world_size, kind):
    if rank == 1 and kind == "raises":
        raise KeyError("the cause")
    if rank == 1 and kind == "dies":
        os._exit(3)
    time.sleep(60)


@pytest.mark.parametrize(("kind", "said"), [("raises", "(?s)rank 1:.*KeyError: 'the cause'"), ("dies", "rank 1 died")])
def test_a_rank_that_fails_is_reported_at_once_though_the_others_go_on(kind, said):
    with pytest.raises(RankError, match=said):  # and not TimeoutError: the other rank sleeps for longer
        run_ranks(trouble_on_rank_1, 2, kind, timeout_s=40)


def test_ranks_that_do_not_finish_are_ended():
    with pytest.raises(TimeoutError, match=r"ranks \[0, 1\] did not finish"):
        run_ranks(trouble_on_rank_1, 2, "none", timeout_s=3)
