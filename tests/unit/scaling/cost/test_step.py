"""What goes on at once in a step, by hand; and that its parts add up to it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from dlrm.scaling.cost.compute import TABLE_KERNELS, Seconds
from dlrm.scaling.cost.on_cores import on_cores
from dlrm.scaling.cost.on_devices import on_devices
from dlrm.scaling.cost.rates import TERMS
from dlrm.scaling.cost.step import step_cost
from dlrm.scaling.cost.workload import bytes_by_collective
from dlrm.scaling.operations import Operation
from dlrm.scaling.stage_names import (
    ALL_REDUCE,
    COPY,
    INPUT_DIST,
    LAUNCHES,
    LOOKUP,
    OPTIMIZER,
    OTHER,
    OUTPUT_DIST,
    UPDATE,
    backward_of,
)
from dlrm.scaling.work import Product
from tests.unit.scaling.cost.machines import GB, MB, lookup, machine, transfer, workload

BACK = backward_of(OUTPUT_DIST)


def seconds(**by_stage):
    """All of one term; stages by short names."""
    names = {
        "bottom": "bottom_mlp", "bottom_back": "bottom_mlp backward", "top": "top_mlp", "top_back": "top_mlp backward",
        "lookup": LOOKUP, "update": UPDATE, "ids": INPUT_DIST, "out": OUTPUT_DIST, "back": BACK, "sum": ALL_REDUCE,
        "copy": COPY, "other": OTHER, "optimizer": OPTIMIZER,
    }  # fmt: skip
    return Seconds({(names[name], "x"): float(value) for name, value in by_stage.items()})


# On cores.


def cores(same, own, exchanged=None, *, count=4.0, threads=1, per_host=None, crowding=1.0, factors=None):
    found = machine(cores=count, threads=threads, crowding=crowding, factors=factors)
    work = workload(ranks=len(own), ranks_per_host=per_host or len(own))
    return on_cores(work, found, same, own, exchanged or Seconds())


def test_with_a_core_for_each_rank_the_slowest_rank_of_each_phase_decides():
    """Rank 0 looks up longest, rank 1 updates longest."""
    own = [seconds(lookup=5, update=1), seconds(lookup=2, update=7), seconds(), seconds()]
    spent = cores(seconds(top=3, optimizer=2), own, seconds(out=4, back=1))
    assert spent.total == pytest.approx(3 + 2 + 5 + 7 + 4 + 1)
    assert spent.stage(LOOKUP) == 5
    assert spent.stage(UPDATE) == 7


def test_more_ranks_than_cores_take_as_long_as_all_their_work_on_all_cores():
    own = [seconds(lookup=value) for value in (4, 4, 2, 2)]
    spent = cores(seconds(top=3), own, count=2.0)
    assert spent.stage("top_mlp") == pytest.approx(4 * 3 / 2)
    assert spent.stage(LOOKUP) == pytest.approx((4 + 4 + 2 + 2) / 2)


def test_but_no_less_than_the_slowest_rank_which_has_one_core_only():
    own = [seconds(lookup=value) for value in (9, 1, 1, 1)]
    assert cores(seconds(), own, count=2.0).stage(LOOKUP) == pytest.approx(9)


def test_the_busiest_host_decides():
    own = [seconds(lookup=value) for value in (4, 4, 4, 4, 5, 1, 1, 1)]
    assert cores(seconds(), own, count=2.0, per_host=4).stage(LOOKUP) == pytest.approx(8)


@pytest.mark.parametrize("loads", [(1, 1, 1, 1), (8, 0, 0, 0), (5, 3, 1, 0), (2, 2, 2, 1)])
@pytest.mark.parametrize("count", [1.0, 2.0, 3.0, 8.0])
def test_no_core_does_more_than_a_second_s_work_in_a_second(loads, count):
    spent = cores(seconds(top=1), [seconds(lookup=load, update=load) for load in loads], count=count)
    total = 4 * 1 + 2 * sum(loads)
    assert spent.total >= total / min(count, 4) - 1e-9
    assert spent.total >= 1 + 2 * max(loads) - 1e-9
    if count == 1.0:
        assert spent.total == pytest.approx(total)


def test_threads_take_cores_as_ranks_do():
    own = [seconds(lookup=2)] * 4
    assert cores(seconds(top=1), own, count=8.0, threads=2).total == pytest.approx(3)
    assert cores(seconds(top=1), own, count=4.0, threads=2).total == pytest.approx(6)


def test_crowding_is_of_what_is_computed_where_cores_are_shared():
    own = [seconds(lookup=2)] * 4
    crowded = cores(seconds(top=1), own, seconds(out=10), count=2.0, crowding=1.5)
    assert crowded.total == pytest.approx(2 * 3 * 1.5 + 10)
    assert crowded.by[OTHER, "crowding"] == pytest.approx(2 * 3 * 0.5)
    corrected = cores(seconds(top=1), own, seconds(out=10), count=2.0, crowding=1.5, factors={"crowding": 2.0})
    assert corrected.by[OTHER, "crowding"] == pytest.approx(2 * 3 * 0.5 * 2)
    assert cores(seconds(top=1), own, count=4.0, crowding=1.5).total == pytest.approx(3)


# On devices.


def devices(same, own=None, exchanged=None, *, prefetches=True, operators=0, launch_s=0.0, factors=None):
    work = workload(prefetches_ids=prefetches, operations=(Operation("top_mlp", None, 0),) * operators)
    found = machine(launch_s=launch_s, factors=factors)
    return on_devices(work, found, same, own or [Seconds(), Seconds()], exchanged or Seconds())


def test_embeddings_come_behind_the_bottom_mlp_and_what_is_longer_shows():
    spent, hidden = devices(seconds(bottom=3, top=5), exchanged=seconds(out=10))
    assert spent.total == pytest.approx(3 + 5 + 7)
    assert hidden[OUTPUT_DIST] == 3
    assert spent.stage(OUTPUT_DIST) == pytest.approx(7)
    spent, hidden = devices(seconds(bottom=30, top=5), exchanged=seconds(out=10))
    assert (spent.total, hidden[OUTPUT_DIST]) == (pytest.approx(35), 10)


def test_their_gradients_go_behind_its_backward_pass_and_not_behind_another_s():
    spent, hidden = devices(seconds(bottom_back=2, top_back=9), exchanged=seconds(back=5))
    assert (spent.total, hidden[BACK]) == (pytest.approx(2 + 9 + 3), 2)


def test_dense_gradients_are_summed_behind_backward_passes_and_the_update():
    same = seconds(top_back=4, bottom_back=3)
    spent, hidden = devices(same, [seconds(update=2)] * 2, seconds(sum=20))
    assert hidden[ALL_REDUCE] == pytest.approx(4 + 3 + 2)
    assert spent.total == pytest.approx(4 + 3 + 2 + 11)
    # What hides gradients of embeddings hides nothing else.
    spent, hidden = devices(same, [seconds(update=2)] * 2, seconds(sum=20, back=3))
    assert (hidden[BACK], hidden[ALL_REDUCE]) == (pytest.approx(3), pytest.approx(6))
    assert spent.total == pytest.approx(4 + 3 + 2 + 14)
    spent, hidden = devices(seconds(top=100, optimizer=50), exchanged=seconds(sum=20))
    assert (spent.total, hidden[ALL_REDUCE]) == (pytest.approx(170), 0)


def test_ids_and_copies_of_the_next_batch_are_behind_this_one_s_training():
    same = seconds(top=10, copy=4)
    spent, hidden = devices(same, exchanged=seconds(ids=6))
    assert (spent.total, hidden[COPY], hidden[INPUT_DIST]) == (pytest.approx(10), 4, 6)
    spent, hidden = devices(same, exchanged=seconds(ids=6), prefetches=False)
    assert spent.total == pytest.approx(20)
    assert not {COPY, INPUT_DIST} & hidden.keys()
    spent, _ = devices(seconds(top=1, copy=4), exchanged=seconds(ids=6))
    assert spent.total == pytest.approx(1 + 3 + 5)


def test_the_rank_with_the_most_of_its_own_decides():
    own = [seconds(lookup=5, update=1), seconds(lookup=2, update=7)]
    assert devices(seconds(top=1), own)[0].total == pytest.approx(1 + 9)


def test_a_step_takes_no_less_than_the_launch_of_its_kernels():
    launched = (TABLE_KERNELS + 40) * 1e-3
    bound, _ = devices(seconds(top=0.02), operators=40, launch_s=1e-3)
    assert bound.total == pytest.approx(launched)
    assert bound.by[LAUNCHES, "operations"] == pytest.approx(launched - 0.02)
    busy, _ = devices(seconds(top=5), operators=40, launch_s=1e-3)
    assert busy.total == pytest.approx(5)
    corrected, _ = devices(seconds(top=0.02), operators=40, launch_s=1e-3, factors={"operations": 2.0})
    assert corrected.total == pytest.approx(2 * launched)


# The whole.

OPERATIONS = (
    Operation("bottom_mlp", Product(64, 64, 64), 0), Operation("bottom_mlp", None, 5000),
    Operation("top_mlp", Product(64, 128, 64), 0), Operation("top_mlp backward", Product(64, 64, 128), 0),
    Operation("bottom_mlp backward", Product(64, 64, 64), 0), Operation(ALL_REDUCE, None, 4000),
)  # fmt: skip
RATES = {
    "flops_per_s": {"float32": 1e10}, "half_size": 8.0, "product_s": 1e-6, "stream_bytes_per_s": 1e9,
    "cached_bytes_per_s": 4e9, "cache_bytes": 1e4, "operation_s": 3e-6, "lookup_s": (1e-6, 1e-7, 1e-8, 1e-9),
    "update_s": (1e-6, 1e-7, 1e-8, 2e-9), "ids_s": 1e-8, "cut_s": (1e-8, 1e-8), "step_s": 1e-4, "table_s": 1e-5,
    "shared_step_s": 1e-5,
}  # fmt: skip
KINDS = {
    "cores": {"cores": 8.0}, "shared cores": {"cores": 2.0, "crowding": 1.3},
    "devices": {"copy_bytes_per_s": 1e8}, "launch-bound": {"copy_bytes_per_s": 1e8, "launch_s": 1e-4},
}  # fmt: skip
FACTORS = {term: 0.5 + 0.25 * i for i, term in enumerate(TERMS)}


def whole(ranks=4):
    own = [tuple(lookup(ids=100.0 * (rank + 1), distinct=90.0 * (rank + 1)) for _ in range(3)) for rank in range(ranks)]
    own[0] = (*own[0], lookup(sharding="data_parallel"))
    transfers = (
        transfer("all_to_all", 1000, ranks, ranks, stage=INPUT_DIST, calls=2),
        transfer("all_to_all", MB, ranks, ranks, stage=OUTPUT_DIST),
        transfer("all_to_all", MB, ranks, ranks, stage=BACK),
        transfer("all_reduce", MB, ranks, ranks, stage=ALL_REDUCE),
        transfer("all_reduce", MB, ranks, ranks, stage="averaging of copies"),
    )
    return workload(
        ranks=ranks, ranks_per_host=ranks, operations=OPERATIONS, lookups=tuple(own), transfers=transfers,
        updates=(Operation(OPTIMIZER, None, 10_000),), replicated=(Operation(OPTIMIZER, None, 500, 100),),
        replicated_numbers=100, batch_bytes=1e4, batch_ids=300.0, cut_bags=10.0, cut_ids=30.0, tables=3,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factors", [{}, FACTORS, dict.fromkeys(TERMS, 0.0)])
def test_stages_and_terms_times_factors_add_up_to_the_step(kind, factors):
    found = machine(factors=factors, **RATES | KINDS[kind])
    cost = step_cost(whole(), found)
    assert sum(cost.stages_s.values()) == pytest.approx(cost.step_s, rel=1e-12)
    assert cost.terms_s.keys() <= set(TERMS)
    by_terms = sum(found.factor(term) * taken for term, taken in cost.terms_s.items())
    assert by_terms == pytest.approx(cost.step_s, rel=1e-12)
    assert all(taken >= 0 for taken in (*cost.stages_s.values(), *cost.terms_s.values(), *cost.hidden_s.values()))
    assert len(cost.by_rank_s) == 4
    if factors != dict.fromkeys(TERMS, 0.0):
        assert cost.limiting_rank == 3
        assert cost.by_rank_s[3] == max(cost.by_rank_s) <= cost.step_s * (1 + 1e-9) + cost.hidden_s.get(COPY, 0.0)
        assert cost.stages_s[cost.limiting_stage] == max(cost.stages_s.values())


@pytest.mark.parametrize("kind", KINDS)
def test_slower_hardware_never_makes_a_step_shorter(kind):
    fast = step_cost(whole(), machine(**RATES | KINDS[kind])).step_s * (1 - 1e-12)
    for name, value in (RATES | KINDS[kind]).items():
        if name.endswith("_s") and not name.endswith("bytes_per_s") and name != "flops_per_s":
            slower = tuple(2 * part for part in value) if isinstance(value, tuple) else 2 * value
            assert step_cost(whole(), machine(**RATES | KINDS[kind] | {name: slower})).step_s >= fast, name
        elif name.endswith("bytes_per_s"):
            assert step_cost(whole(), machine(**RATES | KINDS[kind] | {name: value / 2})).step_s >= fast, name


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_ranks_changes_nothing_but_who_is_last(kind):
    found, plain = machine(**RATES | KINDS[kind]), whole()
    cost = step_cost(plain, found)
    for order in itertools.islice(itertools.permutations(range(4)), 0, 24, 5):
        other = step_cost(replace(plain, lookups=tuple(plain.lookups[rank] for rank in order)), found)
        assert other.step_s == pytest.approx(cost.step_s)
        assert other.by_rank_s == pytest.approx([cost.by_rank_s[rank] for rank in order])


def test_exchanges_are_one_term_and_sums_of_dense_gradients_another():
    found = step_cost(whole(), machine(cores=8.0))
    assert found.terms_s["exchange"] > found.terms_s["all_reduce"] > 0
    assert np.isclose(found.stages_s[ALL_REDUCE], found.terms_s["all_reduce"])
    moved = 2 * 3 / 4 * MB / (100 * GB)
    assert found.terms_s["all_reduce"] == pytest.approx(2e-6 + 3 * 0.5e-6 + moved)


@pytest.mark.parametrize("kind", ["cores", "devices"])
def test_micro_batches_exchange_and_apply_dense_gradients_once(kind):
    reduced = transfer("all_reduce", 4 * MB, 2, 2, stage=ALL_REDUCE)
    pooled = transfer("all_to_all", 2 * MB, 2, 2, stage=OUTPUT_DIST)
    work = workload(operations=OPERATIONS, updates=OPERATIONS, transfers=(pooled, reduced))
    on = machine(**RATES | KINDS[kind])
    one, four = (step_cost(replace(work, micro_batches=count), on) for count in (1, 4))
    between = step_cost(work.without_once_a_step(), on)
    assert four.step_s == pytest.approx(one.step_s + 3 * between.step_s)
    assert sum(four.stages_s.values()) == pytest.approx(four.step_s)
    assert between.step_s < one.step_s
    assert between.stages_s[OPTIMIZER] == 0
    sent = bytes_by_collective(replace(work, micro_batches=4))
    assert sent == pytest.approx({"all_to_all": 8 * MB, "all_reduce": 4 * MB})
