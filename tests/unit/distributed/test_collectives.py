import pytest
import torch

from dlrm.distributed.collectives import Collectives, OneProcess, from_rank_0, together
from dlrm.errors import DataError

TORN = DataError("a.tsv", "is torn")


def torn():
    raise TORN


def test_one_process_is_a_world_of_its_own():
    alone: Collectives = OneProcess()
    tensor = torch.tensor([3.0])
    alone.all_reduce_sum_(tensor)
    alone.barrier()
    assert (alone.rank, alone.world_size, tensor.item()) == (0, 1, 3.0)
    assert (alone.all_gather_object("x"), alone.broadcast_object("x")) == (["x"], "x")
    assert (together(alone, lambda: 3), from_rank_0(alone, lambda: 4)) == (3, 4)


@pytest.mark.parametrize("how", [together, from_rank_0])
def test_in_one_process_a_mistake_is_raised_as_it_is(how):
    with pytest.raises(DataError) as caught:
        how(OneProcess(), torn)
    assert caught.value is TORN
    assert caught.value.__cause__ is None  # one that is its own cause would be followed without end
