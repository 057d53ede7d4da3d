"""From a configuration and its plan to the work of a step, of clusters that are not there."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dlrm.config import load_config
from dlrm.data.id_statistics.base import UniformIds
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.scaling.cost.describe import workload_of
from dlrm.scaling.stage_names import ALL_REDUCE, AVERAGING, INPUT_DIST, OUTPUT_DIST, backward_of
from dlrm.schema import Schema
from dlrm.train.engine import plan_model
from tests.unit.sharding.plans import blocks_of, tables_in

ROWS, DIM, RANKS, HOST, BATCH = (64, 640, 100, 1000), 16, 16, 8, 128
SCHEMA = Schema.numbered(3, ROWS, (1, 2, 1, 3))
COMMON = [
    f"model.embedding_dim={DIM}", "model.bottom_mlp=8,16", "model.top_mlp=8,1", f"train.global_batch_size={BATCH}",
    "optim.sparse={kind: adagrad, lr: 0.1}",
]  # fmt: skip
DENSE = 3 * 8 + 8 + 8 * 16 + 16 + (16 + 10) * 8 + 8 + 8 + 1


def described(*options, ranks=RANKS, per_host=HOST, schema=SCHEMA):
    world = World(RankInfo(0, ranks, 0, per_host), torch.device("cuda", 0), "none", OneProcess(), described=True,
                  device_name="NVIDIA H100 80GB HBM3")  # fmt: skip
    config = load_config(None, [*COMMON, *options])
    planned = plan_model(config, schema, world)
    return SimpleNamespace(
        work=workload_of(config, schema, planned, world), plan=tables_in(planned.plan), planned=planned
    )


def of_stage(found, stage):
    return [transfer for transfer in found.work.transfers if transfer.stage == stage]


def test_the_whole_world_by_hand():
    found = described("sharding.types=table_wise")
    work = found.work
    assert (work.ranks, work.ranks_per_host, work.samples, work.tables) == (16, 8, 8.0, 4)
    assert (work.cut_bags, work.cut_ids, work.replicated, work.replicated_numbers) == (0, 0, (), 0)
    assert work.batch_ids == 8 * 7
    assert work.batch_bytes == 8 * (4 * (3 + 2) + 4 * 7)
    (summed,) = of_stage(found, ALL_REDUCE)
    assert set(summed.sent) == {DENSE * 4.0}
    assert (summed.ranks, summed.ranks_per_host, summed.calls) == (16, 8, 1)
    assert of_stage(found, AVERAGING) == []
    for table, parameter in found.plan.items():
        ((owner, *_),) = blocks_of(parameter)
        (lookup,) = [one for one in work.lookups[owner] if one.table == table]
        assert lookup.bags == BATCH
        assert lookup.state == DIM * 4  # Adagrad keeps a sum for each number


def test_dense_gradients_are_cut_into_buckets_and_may_have_half_the_bytes():
    (summed,) = of_stage(described("model.top_mlp=2600,2600,1", "precision.all_reduce=bf16"), ALL_REDUCE)
    weights = 3 * 8 + 8 + 8 * 16 + 16 + 26 * 2600 + 2600 + 2600 * 2600 + 2600 + 2600 + 1
    assert set(summed.sent) == {weights * 2.0}
    assert summed.calls == math.ceil(weights * 4 / (25 << 20))


@pytest.mark.parametrize("consecutive", [False, True])
def test_exchanges_stay_in_groups_that_share_copies_of_the_tables(consecutive):
    found = described(
        "sharding.types=table_wise", "sharding.group_size=8", "sharding.sync_steps=4",
        f"sharding.inter_host_sync={str(consecutive).lower()}",
    )  # fmt: skip
    exchanges = [one for one in found.work.transfers if one.stage not in (ALL_REDUCE, AVERAGING)]
    assert exchanges
    # Ranks of a group are on one host, or every other one of both.
    assert {(one.ranks, one.ranks_per_host) for one in exchanges} == {(8, 8 if consecutive else 4)}
    assert all(one.sent.shape == (8,) for one in exchanges)
    (summed,) = of_stage(found, ALL_REDUCE)
    assert (summed.ranks, summed.ranks_per_host) == (16, 8)
    (averaged,) = of_stage(found, AVERAGING)
    # Two copies; the peers are on one host, or on two. Weights and sums of the fullest position, each fourth step.
    assert (averaged.ranks, averaged.ranks_per_host, averaged.collective) == (2, 1 if consecutive else 2, "all_reduce")
    held = [0] * 8
    for parameter in found.plan.values():
        for position, _, _, rows, columns in blocks_of(parameter):
            held[position] += 2 * 4 * rows * columns
    assert set(averaged.sent) == {max(held) / 4}
    assert len(found.work.lookups) == 16
    for rank in range(16):
        position = rank % 8 if consecutive else rank // 2
        mine = {table for table, parameter in found.plan.items() if blocks_of(parameter)[0][0] == position}
        assert {lookup.table for lookup in found.work.lookups[rank]} == mine
        assert all(lookup.bags == 8 * 8 for lookup in found.work.lookups[rank])


@pytest.mark.parametrize("group", [[], ["sharding.group_size=8"], ["sharding.group_size=1"]])
def test_gradients_of_replicated_tables_are_summed_over_all_ranks_whatever_the_groups(group):
    found = described("sharding.types=table_wise", "sharding.tables.cat_0.types=data_parallel", *group)
    summed = [one for one in of_stage(found, backward_of(OUTPUT_DIST)) if one.collective == "all_reduce"]
    assert [(set(one.sent), one.ranks, one.ranks_per_host) for one in summed] == [({64.0 * DIM * 4}, 16, 8)]
    assert found.work.replicated_numbers == 64 * DIM
    assert found.work.replicated
    for of_rank in found.work.lookups:
        (own,) = [lookup for lookup in of_rank if lookup.table == "cat_0"]
        assert (own.bags, own.ids, own.rows) == (8.0, 8.0, 64)


def test_micro_batches_are_what_is_described():
    whole, part = described("sharding.types=table_wise"), described(
        "sharding.types=table_wise", "train.accumulation_steps=2"
    )  # fmt: skip
    assert (whole.work.samples, part.work.samples) == (8.0, 4.0)


def test_how_ids_are_spread_decides_what_is_looked_up():
    found = described("sharding.types=row_wise")
    config, planned = load_config(None, [*COMMON, "sharding.types=row_wise"]), found.planned
    world = World(RankInfo(0, RANKS, 0, HOST), torch.device("cuda", 0), "none", OneProcess(), described=True,
                  device_name="NVIDIA H100 80GB HBM3")  # fmt: skip
    ids = {feature.name: UniformIds(feature.rows, 2.0 * feature.hotness) for feature in SCHEMA.sparse}
    doubled = workload_of(config, SCHEMA, planned, world, ids)
    for one, two in zip(found.work.lookups, doubled.lookups, strict=True):
        assert [2 * lookup.ids for lookup in one] == pytest.approx([lookup.ids for lookup in two])
    assert (found.work.cut_bags, found.work.cut_ids) == (8 * 4, 8 * 7)
    assert doubled.cut_ids == 2 * 8 * 7


def test_weights_of_ids_are_read_and_sent_with_them():
    weighted = replace(SCHEMA, sparse=(replace(SCHEMA.sparse[0], weights="w"), *SCHEMA.sparse[1:]))
    plain, found = described("sharding.types=table_wise"), described("sharding.types=table_wise", schema=weighted)
    assert found.work.batch_bytes - plain.work.batch_bytes == 8 * 4 * 7  # all ids have weights where some do
    (before,), (sent,) = of_stage(plain, INPUT_DIST), of_stage(found, INPUT_DIST)
    assert sum(sent.sent) - sum(before.sent) == 15 * 8 * 4 * 7
