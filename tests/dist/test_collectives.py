"""What ranks say to each other, on two gloo ranks; each test has to end by itself, or it has shown a hang."""

import os

import pytest
import torch

from dlrm.distributed.collectives import ProcessGroup, from_rank_0, together
from dlrm.errors import ConfigError, ConfigProblem, DataError, DlrmError, PlanError
from tests.support.ranks import RankError, run_ranks

TORN = DataError("a.tsv", "'x' is no number", row=3, column="int_0", hint="mend the file")
WRONG = ConfigError([ConfigProblem("a.b", "f.yaml:1", "is 3"), ConfigProblem("c", "", "is 4")])


def caught(action, *args) -> DlrmError:
    with pytest.raises(DlrmError) as found:
        action(*args)
    return found.value


def raised_together(rank, world_size, errors):
    def act():
        if errors[rank] is not None:
            raise errors[rank]
        return rank

    error = caught(together, ProcessGroup(), act)
    ProcessGroup().barrier()  # the ranks are still in step
    return error


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((TORN, None), TORN),
        ((None, TORN), TORN),
        ((WRONG, TORN), WRONG),
        ((TORN, TORN), TORN),
        ((None, PlanError("x")), PlanError("x")),
    ],
)
def test_what_one_rank_finds_wrong_every_rank_raises(errors, expected):
    for error in run_ranks(raised_together, 2, errors):
        assert type(error) is type(expected)
        assert str(error) == str(expected)


def raised_by_rank_0(rank, world_size):
    def act():
        assert rank == 0, "only rank 0 may look"
        raise TORN

    error = caught(from_rank_0, ProcessGroup(), act)
    ProcessGroup().barrier()
    return error


def test_what_rank_0_finds_wrong_every_rank_raises():
    assert [str(error) for error in run_ranks(raised_by_rank_0, 3)] == [str(TORN)] * 3


def results(rank, world_size):
    group = ProcessGroup()
    own = together(group, lambda: rank * 10)
    of_0 = from_rank_0(group, lambda: {"rank": rank, "nothing": None})
    nothing = from_rank_0(group, lambda: None)
    total = torch.tensor([1.0 + rank, 2.0], dtype=torch.float64)
    group.all_reduce_sum_(total)
    gathered = group.all_gather_object("ab"[rank] * (rank + 1))
    group.barrier()
    return (
        own,
        of_0,
        nothing,
        total.tolist(),
        gathered,
        group.broadcast_object(rank + 5),
        (group.rank, group.world_size),
    )


def test_without_mistakes_each_rank_has_its_own_result_or_that_of_rank_0():
    common = ({"rank": 0, "nothing": None}, None, [3.0, 4.0], ["a", "bb"], 5)
    assert run_ranks(results, 2) == [(0, *common, (0, 2)), (10, *common, (1, 2))]


def fail_otherwise(rank, world_size, how):
    def act():
        if rank == 1:
            raise ZeroDivisionError
        return rank

    how(ProcessGroup(), act) if how is together else from_rank_0(ProcessGroup(), lambda: 1 / 0)


@pytest.mark.parametrize("how", [together, from_rank_0])
def test_an_error_that_is_no_user_error_ends_its_rank_without_a_word_to_the_others(how):
    with pytest.raises(RankError, match=r"ZeroDivisionError|Connection closed by peer"):
        run_ranks(fail_otherwise, 2, how, timeout_s=60)


def test_the_environment_of_a_rank_is_that_of_a_launcher():
    ranks = run_ranks(environment, 2)
    assert ranks == [("0", "2", "0", "2"), ("1", "2", "1", "2")]


def environment(rank, world_size):
    return tuple(os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))


def gathered_without_torchs_pickles(rank, world_size):
    def refuse(*_, **__):
        raise AssertionError("torch's collectives of objects unpickle whatever comes")

    for name in ("all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list"):
        setattr(torch.distributed, name, refuse)
    sent = {"rank": rank, "text": "x" * 1000 * rank}
    return ProcessGroup().all_gather_object(sent), ProcessGroup().broadcast_object(sent)


def test_objects_of_any_length_reach_every_rank_and_torchs_own_pickles_are_not_used():
    everything = [{"rank": rank, "text": "x" * 1000 * rank} for rank in range(3)]
    assert run_ranks(gathered_without_torchs_pickles, 3) == [(everything, everything[0])] * 3
