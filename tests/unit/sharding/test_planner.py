import pytest
import torch
from torchrec.distributed.planner.types import PlannerError, PlannerErrorType

from dlrm.config import Config
from dlrm.config.describe import options
from dlrm.config.optim import RowwiseAdagrad, SparseAdagrad, SparseAdam, SparseSgd
from dlrm.config.sharding import ShardingConfig
from dlrm.distributed.world import RankInfo
from dlrm.errors import ConfigError, PlanError
from dlrm.optim.tables.build import table_optimizer
from dlrm.schema import Schema
from dlrm.sharding.planner import NOTHING, Reserve, table_constraints
from tests.unit.sharding.plans import ROWS, blocks_of, config_of, plan_of, tables_in, world_of

MODEL_PARALLEL = ["table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise", "grid_shard"]

SGD, ADAM = table_optimizer(SparseSgd(lr=1.0)), table_optimizer(SparseAdam(lr=1.0))


def times_covered(parameter, rows, dim):
    """How many shards hold each weight."""
    covered = torch.zeros(rows, dim, dtype=torch.int64)
    for _, row, column, num_rows, num_columns in blocks_of(parameter):
        covered[row : row + num_rows, column : column + num_columns] += 1
    return covered


@pytest.mark.parametrize(("ranks", "ranks_per_host"), [(1, 1), (2, 2), (4, 4), (4, 2), (3, 3)])
@pytest.mark.parametrize("kind", MODEL_PARALLEL)
def test_the_shards_of_a_table_cover_it_exactly_once(kind, ranks, ranks_per_host):
    plan = tables_in(plan_of(config_of(f"sharding.types={kind}"), world_of(ranks, ranks_per_host)))
    assert list(plan) == [f"cat_{i}" for i in range(4)]
    for rows, parameter in zip(ROWS, plan.values(), strict=True):
        assert parameter.sharding_type == kind
        assert times_covered(parameter, rows, 16).eq(1).all()
        assert {rank for rank, *_ in blocks_of(parameter)} <= set(range(ranks))


@pytest.mark.parametrize("rows", [(1, 1), (5, 3), (4, 1)])
@pytest.mark.parametrize("kind", ["row_wise", "table_row_wise", "grid_shard"])
def test_tables_with_fewer_rows_than_ranks_are_covered_too(kind, rows):
    plan = tables_in(plan_of(config_of(f"sharding.types={kind}"), world_of(4), rows=rows))
    for count, parameter in zip(rows, plan.values(), strict=True):
        assert times_covered(parameter, count, 16).eq(1).all()


def test_a_data_parallel_table_is_on_every_rank_whole():
    for parameter in tables_in(plan_of(config_of("sharding.types=data_parallel"), world_of(4))).values():
        assert (parameter.sharding_type, parameter.compute_kernel) == ("data_parallel", "dense")
        assert parameter.ranks == [0, 1, 2, 3]


def test_tables_of_one_host_stay_on_its_ranks():
    plan = tables_in(plan_of(config_of("sharding.types=table_row_wise"), world_of(4, ranks_per_host=2)))
    for parameter in plan.values():
        assert {rank for rank, *_ in blocks_of(parameter)} in ({0, 1}, {2, 3})


@pytest.mark.parametrize(("width", "columns"), [(4, 4), (8, 8), (5, 8), (16, 16), (128, 16)])
def test_columns_are_no_narrower_than_asked_for_and_fit_fbgemm(width, columns):
    config = config_of("sharding.types=column_wise", f"sharding.min_column_width={width}")
    for parameter in tables_in(plan_of(config, world_of(4))).values():
        assert {block[4] for block in blocks_of(parameter)} == {columns}


def test_each_table_follows_its_own_constraints_and_the_rest_the_general_ones():
    config = config_of(
        "sharding.types=row_wise,row_wise",
        "sharding.tables={cat_1: {types: table_wise}, cat_3: {types: [data_parallel]}}",
    )
    types = {name: parameter.sharding_type for name, parameter in tables_in(plan_of(config, world_of(4))).items()}
    assert types == {"cat_0": "row_wise", "cat_1": "table_wise", "cat_2": "row_wise", "cat_3": "data_parallel"}


def test_memory_makes_the_planner_split_what_does_not_fit_on_one_rank():
    options = ["sharding.types=table_wise,row_wise", "sharding.device_memory_gib=0.1"]
    plan = tables_in(plan_of(config_of(*options), world_of(4), rows=(1_000_000, 50)))
    assert plan["cat_0"].sharding_type == "row_wise"


def test_more_ranks_than_tables_and_a_batch_smaller_than_the_ranks_have_a_plan():
    assert len(tables_in(plan_of(config_of(), world_of(8), rows=(5,), batch=0))) == 1


def test_the_planner_is_told_how_many_ids_a_sample_has():
    schema = Schema.numbered(1, [5, 6], [1, 100])
    constraints = table_constraints(ShardingConfig(), SGD, schema, RankInfo())
    assert [constraint.pooling_factors for constraint in constraints.values()] == [[1.0], [100.0]]


# What cannot be


def refusal(kind, *options, ranks=4, rows=ROWS, batch=8):
    with pytest.raises(kind) as caught:
        plan_of(config_of(*options), world_of(ranks), rows=rows, batch=batch)
    return caught.value


def test_constraints_for_tables_that_do_not_exist_are_all_named():
    error = refusal(ConfigError, "sharding.tables={cat_00: {types: row_wise}, elsewhere: {}, cat_1: {}}")
    assert [str(problem) for problem in error.problems] == [
        "sharding.tables.cat_00: is no table; did you mean cat_0?",
        "sharding.tables.elsewhere: is no table; tables are cat_0 .. cat_3",
    ]


@pytest.mark.parametrize(
    ("options", "rows", "batch", "largest"),
    [
        (["sharding.device_memory_gib=1e-6"], ROWS, 8, "cat_2"),
        (["sharding.types=table_wise", "sharding.device_memory_gib=0.1"], (50, 1_000_000), 8, "cat_1"),
        (["sharding.types=data_parallel", "sharding.device_memory_gib=0.1"], (50, 1_000_000), 8, "cat_1"),
        (
            ["sharding.types=table_wise", "sharding.device_memory_gib=0.2"],
            (1_000_000,) * 5,
            8,
            "cat_0",
        ),  # in sum they fit
        (["sharding.device_memory_gib=1", "sharding.reserve_fraction=0.9999999"], ROWS, 8, "cat_2"),
        (["sharding.device_memory_gib=1"], ROWS, 10**9, "cat_2"),
        ([], (10**12, 5), 8, "cat_0"),
    ],
)
def test_tables_that_do_not_fit_are_one_line_with_what_is_needed_and_what_there_is(options, rows, batch, largest):
    said = str(refusal(PlanError, *options, rows=rows, batch=batch))
    needed = sum(2 * 4 * 16 * count for count in rows) / 1024**3  # weights and one accumulator each
    assert said.startswith(f"the tables need {needed:.3g} GiB with their optimizer's state ({largest} alone ")
    assert "do not fit into 4 rank(s) with " in said
    assert f"beside the activations of {batch} samples; use more ranks" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["sharding.types=data_parallel", "sharding.kernels=fused"],
            "sharding.kernels: is fused, but for data_parallel on cpu there is only dense",
        ),
        (
            ["sharding.types=row_wise,data_parallel", "sharding.kernels=fused_uvm"],
            "sharding.kernels: is fused_uvm, but for row_wise, data_parallel on cpu there is only fused, dense",
        ),
        (
            ["sharding.types=table_wise", "sharding.tables.cat_2.kernels=dense"],
            "sharding.tables.cat_2.kernels: is dense, but for table_wise on cpu there is only fused",
        ),
    ],
)
def test_kernels_that_no_sharding_type_has_are_refused(options, said):
    assert str(refusal(ConfigError, *options)) == said


def test_a_kernel_that_one_of_the_types_has_decides_among_them():
    plan = tables_in(
        plan_of(config_of("sharding.types=table_wise,data_parallel", "sharding.kernels=dense"), world_of(2))
    )
    assert {parameter.sharding_type for parameter in plan.values()} == {"data_parallel"}


def test_more_rows_on_a_rank_than_a_cpu_kernel_takes_are_refused():
    options = ["sharding.device_memory_gib=1e6", "sharding.types=table_wise"]
    said = str(refusal(PlanError, *options, rows=(5, 2**31 - 1), ranks=2))
    assert said.startswith(
        "table cat_1: table_wise puts 2147483647 rows on a rank, fbgemm's CPU kernels take 2147483646 at"
    )
    tables_in(plan_of(config_of(*options[:1], "sharding.types=row_wise"), world_of(2), rows=(5, 2**31 - 1)))


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_what_else_the_planner_raises_is_one_line(monkeypatch, kind):
    def plan(planner, module, sharders):
        raise kind("No available sharding type\nTo debug, search above")

    monkeypatch.setattr("torchrec.distributed.planner.EmbeddingShardingPlanner.plan", plan)
    assert str(refusal(PlanError)) == "the planner found no plan: No available sharding type"


@pytest.mark.parametrize("bandwidth", ["1e-300", "1e300", "0"])
def test_bandwidths_that_no_hardware_has_are_refused(bandwidth):
    with pytest.raises(ConfigError, match=r"sharding\.intra_host_gib_s"):
        config_of(f"sharding.intra_host_gib_s={bandwidth}")


@pytest.mark.parametrize(
    "value", ["cache_share=0.9", "host_memory_gib=1e-6", "device_gib_s=1e-6", "host_to_device_gib_s=1e-6"]
)
def test_what_is_said_to_be_for_cuda_only_changes_no_plan_on_cpu(value):
    (option,) = [option for option in options(Config) if option.path == f"sharding.{value.split('=')[0]}"]
    assert "CUDA only." in option.meaning
    rows, world = (50, 20_000, 3_000_000), world_of(4, 2)
    assert str(plan_of(config_of(f"sharding.{value}"), world, rows=rows)) == str(plan_of(config_of(), world, rows=rows))


def test_hosts_with_unlike_numbers_of_ranks_are_refused():
    with pytest.raises(PlanError, match="4 ranks do not divide into hosts of 3"):
        plan_of(config_of(), world_of(4, ranks_per_host=3))


def test_adam_never_gets_a_data_parallel_table():
    schema = Schema.numbered(1, [5])
    config = ShardingConfig(types=("data_parallel", "row_wise"))
    assert table_constraints(config, ADAM, schema, RankInfo())["cat_0"].sharding_types == ["row_wise"]
    with pytest.raises(ConfigError, match=r"sharding\.types: data_parallel would change the optimizer"):
        table_constraints(ShardingConfig(types=("data_parallel",)), ADAM, schema, RankInfo())
    own = ShardingConfig(tables={"cat_0": {"types": ("data_parallel",)}})
    with pytest.raises(ConfigError, match=r"sharding\.tables\.cat_0\.types: data_parallel would change"):
        table_constraints(own, ADAM, schema, RankInfo())


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD,
        table_optimizer(SparseAdagrad(lr=1.0)),
        table_optimizer(RowwiseAdagrad(lr=1.0)),
    ],
)
def test_the_other_optimizers_take_every_sharding_type(optimizer):
    kinds = (*MODEL_PARALLEL, "data_parallel")
    two_hosts = RankInfo(0, 4, 0, 2)
    constraints = table_constraints(ShardingConfig(types=kinds), optimizer, Schema.numbered(1, [8]), two_hosts)
    assert constraints["cat_0"].sharding_types == list(kinds)


def test_on_one_host_table_row_wise_is_called_row_wise_where_both_are_allowed():
    schema, host = Schema.numbered(1, [8]), RankInfo(0, 4, 0, 4)
    both = table_constraints(ShardingConfig(types=("row_wise", "table_row_wise")), SGD, schema, host)
    assert both["cat_0"].sharding_types == ["row_wise"]
    one = table_constraints(ShardingConfig(types=("table_row_wise",)), SGD, schema, host)
    assert one["cat_0"].sharding_types == ["table_row_wise"]


# Memory of a GPU and of its host


LARGE = (4_000_000, 50)  # 256 MB of weights, as much of Adagrad's state


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of 80 GB in a host of 64 GiB, as far as the planner asks."""
    properties = type("Properties", (), {"total_memory": 80 * 10**9})
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"total": 64 * 1024**3}))


def refusal_on_gpu(*options, reserve=NOTHING):
    with pytest.raises(PlanError) as caught:
        plan_of(config_of(*options), world_of(2, device="cuda"), rows=LARGE, reserve=reserve)
    return str(caught.value)


def test_tables_that_do_not_fit_on_a_gpu_name_its_memory_and_its_options(gpu):
    said = refusal_on_gpu("sharding.kernels=fused", "sharding.device_memory_gib=0.1")
    assert "do not fit into 2 rank(s) with 0.1 GiB of device memory each beside the activations of 8 samples; " in said
    assert "more sharding.device_memory_gib, keep tables in host memory (sharding.kernels: fused_uvm_caching" in said
    assert "host_memory_gib" not in said


@pytest.mark.parametrize("kernel", ["fused_uvm", "fused_uvm_caching"])
def test_tables_that_do_not_fit_into_the_host_s_memory_name_that_and_not_the_device_s(gpu, kernel):
    said = refusal_on_gpu(f"sharding.kernels={kernel}", "sharding.host_memory_gib=0.1")
    assert "do not fit into 2 rank(s) with 0.1 GiB of host memory each beside" in said
    assert "more sharding.host_memory_gib, keep tables on the devices (sharding.kernels: fused)" in said
    assert "device_memory_gib" not in said


def test_tables_that_fit_neither_here_nor_there_name_both(gpu):
    said = refusal_on_gpu(
        "sharding.kernels=fused_uvm_caching", "sharding.device_memory_gib=0.001", "sharding.host_memory_gib=0.1"
    )
    assert "with 0.001 GiB of device memory and 0.1 GiB of host memory each" in said
    assert "more sharding.device_memory_gib and sharding.host_memory_gib" in said


@pytest.mark.parametrize(
    ("copies", "said"),
    [
        (0, "even with all tables on devices, and has 32 GiB less sharding.reserve_fraction (0.5); use more ranks"),
        (2**30, "on devices, 1 of them for a copy of the state while it is saved, and has 32 GiB less"),
    ],
)
def test_what_else_the_host_needs_is_refused_where_it_has_no_room_although_tables_are_on_devices(gpu, copies, said):
    options = ["sharding.kernels=fused", "sharding.types=table_wise", "sharding.reserve_fraction=0.5"]
    fits = Reserve(host=2**34 - 1, copies=copies)
    plan_of(config_of(*options), world_of(2, device="cuda"), rows=LARGE, reserve=fits)
    line = refusal_on_gpu(*options, reserve=Reserve(host=2**34 + 2**31, copies=copies))
    assert line.startswith("a rank needs 18 GiB of its host's memory even with all tables on devices")
    assert said in line
    assert line.endswith("or allow more sharding.host_memory_gib")
    assert ("checkpoint.enabled: false" in line) == bool(copies)
    assert "\n" not in line


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_whatever_the_planner_raises_when_asked_which_memory_is_short_is_one_line(gpu, monkeypatch, kind):
    asked = []

    def plan(planner, module, sharders):
        asked.append(planner)
        if len(asked) == 1:
            raise PlannerError("no room", PlannerErrorType.INSUFFICIENT_STORAGE)
        raise kind("No available sharding type")

    monkeypatch.setattr("torchrec.distributed.planner.EmbeddingShardingPlanner.plan", plan)
    assert "of device memory and 32 GiB of host memory each" in refusal_on_gpu()
    assert len(asked) == 3


@pytest.mark.parametrize(("share", "fits"), [(0.2, True), (0.9, False)])
def test_the_share_that_is_cached_decides_what_fits_and_goes_with_the_plan(gpu, share, fits):
    options = ["sharding.kernels=fused_uvm_caching", "sharding.types=table_wise", "sharding.device_memory_gib=0.3"]
    options += [f"sharding.tables.cat_0.cache_share={share}", "sharding.cache_share=0.5"]
    if not fits:
        assert "of device memory" in refusal_on_gpu(*options)
        return
    plan = tables_in(plan_of(config_of(*options), world_of(2, device="cuda"), rows=LARGE))
    assert [plan[name].cache_params.load_factor for name in ("cat_0", "cat_1")] == [share, 0.5]


def test_copies_of_the_state_count_in_the_host_s_memory(gpu):
    options = ["sharding.kernels=fused_uvm", "sharding.host_memory_gib=0.4", "sharding.types=row_wise"]
    plan_of(config_of(*options), world_of(2, device="cuda"), rows=LARGE)
    copies = LARGE[0] * 16 * 4  # a rank's half of weights and state
    said = refusal_on_gpu(*options, reserve=Reserve(host=copies, copies=copies))
    assert "of host memory each beside the activations of 8 samples and 0.238 GiB for a copy of the state" in said
    assert "do without checkpoints (checkpoint.enabled: false)" in said


def test_what_is_no_table_counts_on_the_device(gpu):
    options = ["sharding.kernels=fused", "sharding.device_memory_gib=1"]
    plan_of(config_of(*options), world_of(2, device="cuda"), rows=LARGE)
    assert "of device memory" in refusal_on_gpu(*options, reserve=Reserve(device=int(0.8 * 1024**3)))


# Row ranges without rows


def test_a_small_table_is_not_cut_into_more_ranges_than_it_fills_where_another_type_is_allowed():
    schema = Schema.numbered(1, [9, 8, 3])
    place = RankInfo(0, 4, 0, 4)
    both = table_constraints(ShardingConfig(types=("table_wise", "row_wise")), SGD, schema, place)
    assert [both[f"cat_{i}"].sharding_types for i in range(3)] == [
        ["table_wise"],
        ["table_wise", "row_wise"],
        ["table_wise"],
    ]
    only = table_constraints(ShardingConfig(types=("row_wise",)), SGD, schema, place)
    assert only["cat_0"].sharding_types == ["row_wise"]


def test_tables_may_leave_a_rank_without_any_row_where_no_other_type_is_allowed():
    plan = tables_in(plan_of(config_of("sharding.types=row_wise"), world_of(4), rows=(1, 3)))
    assert [[rows for _, _, _, rows, _ in blocks_of(table)] for table in plan.values()] == [[1, 0, 0, 0], [1, 1, 1, 0]]


def test_a_table_of_one_row_is_cut_into_columns_instead_of_a_grid_and_the_plan_says_so():
    config = config_of("sharding.types=grid_shard")
    on_two_hosts = tables_in(plan_of(config, world_of(4, ranks_per_host=2), rows=(1, 2)))
    assert {name: table.sharding_type for name, table in on_two_hosts.items()} == {
        "cat_0": "column_wise",
        "cat_1": "grid_shard",
    }
    assert all(rows == 1 for _, _, _, rows, _ in blocks_of(on_two_hosts["cat_0"]))
    alone = tables_in(plan_of(config, world_of(4, ranks_per_host=1), rows=(1,)))
    assert alone["cat_0"].sharding_type == "grid_shard"


def test_the_columns_of_a_table_of_one_row_are_offered_once():
    kinds = ("grid_shard", "row_wise", "column_wise")
    constraints = table_constraints(ShardingConfig(types=kinds), SGD, Schema.numbered(1, [1]), RankInfo(0, 4, 0, 4))
    assert constraints["cat_0"].sharding_types == ["column_wise"]
