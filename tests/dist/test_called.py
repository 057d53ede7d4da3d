"""What ranks know of the collectives they wait in, on two gloo ranks."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from dlrm.distributed.called import Called, caller, last_called
from tests.support.ranks import run_ranks


def apart(rank, world_size):
    """Ranks agree once, then call different collectives."""
    group = dist.new_group(timeout=timedelta(seconds=2))
    dist.all_reduce(torch.ones(4), group=group)
    with pytest.raises(RuntimeError) as error:
        one_or_the_other(rank, group)
    own = [called for called in last_called() if called.group == group.group_name]
    return own, caller(error.value)


def one_or_the_other(rank, group):
    if rank == 0:
        dist.all_reduce(torch.ones(4), group=group)
    else:
        dist.all_to_all_single(torch.empty(4), torch.ones(4), group=group)


def test_ranks_that_wait_in_different_collectives_know_each_its_own():
    (first, where), (second, _) = run_ranks(apart, 2)
    assert [called.name for called in first] == ["all_reduce", "all_reduce"]
    assert [called.name for called in second] == ["all_reduce", "all_to_all"]
    assert [called[:2] for called in first] == [called[:2] for called in second]
    assert isinstance(first[0], Called)
    assert where.endswith("(one_or_the_other)")
