"""Which ranks share a copy of the tables, what is refused, and the plans and accounts of groups."""

import math

import pytest
import torch

from dlrm.config import load_config
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.errors import ConfigError, PlanError
from dlrm.memory import COPIES, SCORES, TABLES
from dlrm.schema import Schema
from dlrm.sharding.groups import Groups, copies_lines, groups_of
from dlrm.train.engine import find_groups, plan_model
from tests.unit.sharding.plans import ROWS, blocks_of, config_of, tables_in

H100 = "NVIDIA H100 80GB HBM3"


def world_of(ranks, ranks_per_host=8, device="cuda", rank=0):
    place = RankInfo(rank, ranks, rank % ranks_per_host, ranks_per_host)
    return World(place, torch.device(device), "none", OneProcess(), described=True, device_name=H100)


def test_groups_are_those_of_torchrec():
    """The examples of DMPCollection's docstring, and of its argument use_inter_host_allreduce."""
    strided, consecutive = Groups(8, 4), Groups(8, 4, consecutive=True)
    assert [strided.ranks_of(copy) for copy in (0, 1)] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [strided.peers_at(position) for position in range(4)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [consecutive.ranks_of(copy) for copy in (0, 1)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert strided.in_each((1, 3)) == [(2, 6), (3, 7)]


@pytest.mark.parametrize("consecutive", [False, True])
@pytest.mark.parametrize(("ranks", "size"), [(8, 1), (8, 8), (12, 4), (24, 6)])
def test_each_rank_has_one_place_in_one_group(ranks, size, consecutive):
    groups = Groups(ranks, size, consecutive)
    places = [(groups.copy_of(rank), groups.position_of(rank)) for rank in range(ranks)]
    assert sorted(places) == [(copy, position) for copy in range(ranks // size) for position in range(size)]
    assert [groups.rank_at(*place) for place in places] == list(range(ranks))


@pytest.mark.parametrize(
    ("ranks", "size", "ranks_per_host", "consecutive", "per_host"),
    [
        (16, 8, 8, True, 8),  # a group is a host
        (16, 8, 8, False, 4),  # half a host and half another
        (32, 16, 8, True, 8),  # two hosts
        (16, 4, 8, True, 4),  # half a host
        (16, 2, 8, False, 1),  # eight copies: a rank a host
        (24, 8, 8, False, 1),  # three copies: 3, 3 and 2 ranks a host
        (24, 6, 8, True, 1),  # across hosts
    ],
)
def test_the_ranks_of_a_group_on_a_host_count_as_a_host(ranks, size, ranks_per_host, consecutive, per_host):
    groups = Groups(ranks, size, consecutive)
    assert groups.per_host(ranks_per_host) == per_host
    for rank in range(ranks):
        seen = groups.seen_from(world_of(ranks, ranks_per_host, rank=rank)).rank_info
        assert (seen.rank, seen.world_size, seen.local_world_size) == (groups.position_of(rank), size, per_host)
        if per_host > 1:  # hosts of the group are hosts
            first = groups.rank_at(groups.copy_of(rank), seen.rank - seen.local_rank)
            assert first // ranks_per_host == rank // ranks_per_host


def test_all_ranks_share_the_one_copy_there_is_by_default():
    groups = groups_of(config_of().sharding, world_of(4, 4, device="cpu"))
    assert (groups.copies, groups.ranks_of(0)) == (1, [0, 1, 2, 3])
    assert groups_of(config_of("sharding.group_size=4").sharding, world_of(4, 4, device="cpu")).copies == 1
    assert copies_lines(config_of().sharding, world_of(4, 4)) == []


@pytest.mark.parametrize(
    ("options", "device", "said"),
    [
        (["sharding.group_size=3"], "cuda", "sharding.group_size is 3, and 16 ranks do not divide into groups of 3"),
        (["sharding.group_size=32"], "cuda", "sharding.group_size is 32, and 16 ranks do not divide"),
        (["sharding.group_size=4"], "cpu", "sharding.group_size asks for 4 copies .* CUDA only, and the device is cpu"),
        (["sharding.sync_steps=2"], "cuda", "sharding.sync_steps is about several copies .* set sharding.group_size"),
        (["sharding.group_size=4", "checkpoint.full_every=5"], "cuda", "checkpoint.full_every is 5, and with 4 copies"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(options, device, said):
    with pytest.raises(ConfigError, match=said.replace(" is ", "(: | )is ").replace(" asks", "(: | )asks")) as caught:
        find_groups(config_of(*options), world_of(16, device=device))
    assert "\n" not in str(caught.value)


def test_hosts_with_unlike_numbers_of_ranks_are_refused():
    with pytest.raises(PlanError, match="12 ranks do not divide into hosts of 8"):
        groups_of(config_of("sharding.group_size=6").sharding, world_of(12))


def test_a_run_says_that_it_is_another_algorithm():
    (line,) = copies_lines(config_of("sharding.group_size=8", "sharding.sync_steps=4").sharding, world_of(16))
    assert "2 copies of the tables, the first on ranks 0, 2, 4, 6, ..." in line
    assert "every 4 steps" in line
    assert "another algorithm" in line


def planned(*options, ranks=16):
    config = load_config(None, ["model.embedding_dim=16", "model.bottom_mlp=8,16", "checkpoint.enabled=true", *options])
    return plan_model(config, Schema.numbered(3, ROWS), world_of(ranks), scored=100)


def test_a_group_plans_as_if_it_were_alone():
    options = ["train.global_batch_size=1600", "sharding.types=table_wise,row_wise"]
    alone = planned("train.global_batch_size=800", options[1], ranks=8)
    group = planned(*options, "sharding.group_size=8", "sharding.inter_host_sync=true")
    assert {table: blocks_of(parameter) for table, parameter in tables_in(group.plan).items()} == {
        table: blocks_of(parameter) for table, parameter in tables_in(alone.plan).items()
    }
    for mine, of_one in zip(group.placements, alone.placements, strict=True):
        assert mine.gib_by_rank == of_one.gib_by_rank * 2


def test_a_rank_takes_as_much_for_tables_as_in_its_group_alone_and_one_group_saves():
    options = ["train.global_batch_size=1600", "sharding.types=row_wise", "optim.sparse={kind: sgd, lr: 0.1}"]
    group = planned(*options, "sharding.group_size=8")
    alone = planned("train.global_batch_size=800", *options[1:], ranks=8)
    for rank in range(16):
        found, expected = group.memory_of(rank).parts, alone.memory_of(rank // 2).parts
        for part in expected.keys() - {COPIES, SCORES}:  # what is scored is shared out over all ranks
            assert found[part] == expected[part], part
    whole = sum(rows * 16 * 4 for rows in ROWS)
    assert sum(group.memory_of(rank).parts[TABLES].device for rank in range(16)) == 2 * whole
    dense = [group.memory_of(rank).parts[COPIES].host for rank in range(1, 16, 2)]  # of the second copy
    assert len(set(dense)) == 1
    saved = sum(group.memory_of(rank).parts[COPIES].host for rank in range(16))
    assert saved == whole + 16 * dense[0]


def test_tables_of_copies_stay_on_devices():
    kernels = {p.compute_kernel for p in tables_in(planned("sharding.group_size=8").plan).values()}
    assert kernels <= {"fused", "dense"}
    own = planned("sharding.group_size=8", "sharding.kernels=fused_uvm,fused", "sharding.types=table_wise")
    assert {p.compute_kernel for p in tables_in(own.plan).values()} == {"fused"}
    for option, key in (
        ("sharding.kernels=fused_uvm_caching", "sharding.kernels"),
        ("sharding.tables.cat_1.kernels=fused_uvm", "sharding.tables.cat_1.kernels"),
    ):
        with pytest.raises(ConfigError, match=f"{key}.*there can be one copy only"):
            planned("sharding.group_size=8", "sharding.types=table_wise", option)


def test_two_copies_need_twice_the_memory_of_one():
    """A rank has 0.1 GiB for tables beside the rest: one copy of 0.95 GiB fits on sixteen, and not on eight."""
    rows = 8_000_000
    options = ["sharding.device_memory_gib=0.2", "sharding.types=row_wise", "checkpoint.enabled=false"]
    config = load_config(
        None, ["model.embedding_dim=16", "model.bottom_mlp=8,16", "optim.sparse={kind: sgd, lr: 0.1}", *options]
    )
    schema = Schema.numbered(3, [rows] * 2)
    assert math.isclose(
        sum(p.gib_by_rank[0] for p in plan_model(config, schema, world_of(16)).placements), 0.0596, rel_tol=0.01
    )
    in_groups = load_config(
        None,
        [
            "model.embedding_dim=16",
            "model.bottom_mlp=8,16",
            "optim.sparse={kind: sgd, lr: 0.1}",
            *options,
            "sharding.group_size=8",
        ],
    )
    with pytest.raises(PlanError, match=r"do not fit into 8 rank\(s\)"):
        plan_model(in_groups, schema, world_of(16))
