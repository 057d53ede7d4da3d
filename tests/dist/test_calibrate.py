"""Ranks that measure together agree on what they measure."""

import os

from dlrm.config.calibrate import CalibrateConfig
from dlrm.scaling.calibrate import job
from dlrm.scaling.cost import microbenchmarks
from dlrm.scaling.cost.rates import Link
from tests.support.ranks import run_ranks
from tests.support.training import this_world
from tests.unit.scaling.cost.machines import COLLECTIVES, rates


def measured_where_bound(rank, world_size, cores_of_rank):
    """A measurement whose parts take no time, on a rank that is bound to some of the cores."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[i] for i in cores_of_rank[rank]})
    own = rates(cores=2.0, flops_per_s={"float32": 10.0 - rank})
    job._rates = lambda config, world, cores: own
    microbenchmarks.collectives = lambda device: {name: Link(1.0, 1.0) for name in COLLECTIVES}
    world = this_world()
    entry = job.measured(CalibrateConfig(), world)
    world.collectives.barrier()  # nobody was left behind in another measurement
    return entry


def test_ranks_with_unlike_cores_take_the_same_way():
    """One has both cores for itself, as it sees it, the other shares one with it."""
    first, second = run_ranks(measured_where_bound, 2, [(0, 1), (0,)])
    assert first == second
    assert first.rates.flops_per_s["float32"] == 9.0  # of the slower rank


def test_ranks_that_are_bound_to_a_core_each_share_none():
    first, second = run_ranks(measured_where_bound, 2, [(0,), (1,)])
    assert first == second
    assert first.rates is not None
    assert first.crowding == 1.0


def test_ranks_on_one_core_share_it():
    first, second = run_ranks(measured_where_bound, 2, [(0,), (0,)])
    assert first == second
    assert first.rates is None
    assert first.crowding >= 1.0
