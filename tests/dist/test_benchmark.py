"""The benchmark on two gloo ranks: its stages sum up to the step, and what is left out is left out."""

import itertools
from functools import partial

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dlrm.config import load_options
from dlrm.config.benchmark import BenchmarkConfig
from dlrm.data.source import Dataset
from dlrm.errors import ConfigError
from dlrm.scaling import work
from dlrm.scaling.benchmark import ceilings
from dlrm.scaling.benchmark.ablation import to_be_built
from dlrm.scaling.benchmark.job import measured
from dlrm.scaling.benchmark.passes import DRAINING, FILLING, Training
from dlrm.schema import Schema
from dlrm.train.engine import build_engine
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source

SMALL = ["train.global_batch_size=32", "model.embedding_dim=8", "model.bottom_mlp=16,8", "model.top_mlp=16,1"]
SMALL += ["steps=4", "warmup_steps=0", "profiled_steps=4", "optim.dense.lr=0.01"]
EVERY_SHARDING = [
    "sharding.tables={cat_0: {types: data_parallel}, cat_1: {types: row_wise}, cat_2: {types: column_wise},"
    " cat_3: {types: table_wise}}"
]


def dataset(num_dense=3, tasks=("label",)):
    source = tiny_source(640)
    source.dense_MN = source.dense_MN[:, :num_dense]
    source.labels_MT = source.labels_MT.repeat(1, len(tasks))
    source.schema = Schema(source.schema.dense[:num_dense], source.schema.sparse, tasks)
    return Dataset(source, source, source)


def configuration(options):
    small = [option for option in SMALL if not (option.startswith("model.") and any("deepfm" in o for o in options))]
    return load_options(BenchmarkConfig, None, [*small, *options])


def benchmark(rank, world_size, options, kwargs, folder):
    config = configuration(options)
    ceilings._ENOUGH_S = 0.005  # of each; in a process that ends with the test
    return measured(config, dataset(**kwargs), this_world(), folder)


slow = partial(pytest.param, marks=pytest.mark.slow)
DLRM_PARTS = {"bottom_mlp", "interaction", "top_mlp", "bottom_mlp backward", "interaction backward", "top_mlp backward"}


@pytest.mark.parametrize(
    ("options", "kwargs", "parts"),
    [
        (EVERY_SHARDING, {}, DLRM_PARTS),
        slow(["train.pipeline=base"], {}, DLRM_PARTS),
        slow(["model.interaction={kind: dcn, layers: 2, rank: 3}"], {"tasks": ("click", "like")}, DLRM_PARTS),
        slow(["model.interaction={kind: projection, branch1: 16, branch2: 16}", "model.heads.tower=4"],
             {"tasks": ("a", "b")}, DLRM_PARTS | {"heads", "heads backward"}),
        slow(["model.interaction.kind=cat", "model.bottom_mlp=512,256,64,16"], {"num_dense": 0},
             {"top_mlp", "interaction"}),
        slow(["model={kind: deepfm, embedding_dim: 8, deep_mlp: 16}"], {},
             {"dense_fields", "deep_mlp", "model", "model backward"}),
    ],
)  # fmt: skip
def test_stages_sum_up_to_the_step_and_all_ranks_find_the_same(options, kwargs, parts, tmp_path):
    mine, others = run_ranks(benchmark, 2, options, kwargs, tmp_path)
    assert (mine.step, mine.samples_per_s, mine.breakdown, mine.work, mine.ceilings, mine.floors) == (
        others.step, others.samples_per_s, others.breakdown, others.work, others.ceilings, others.floors,
    )  # fmt: skip
    found = mine.breakdown
    named = {stage.stage: stage.mean_ms for stage in found.stages}
    assert sum(named.values()) == pytest.approx(found.step_ms, rel=1e-6)
    everywhere = {"data wait", "copy to the device", "input distribution", "lookup", "output distribution", "loss"}
    everywhere |= {"table update", "output distribution backward", "all-reduce", "optimizer", "hooks", "other"}
    assert named.keys() >= everywhere | parts
    assert all(named[stage] > 0 for stage in everywhere | parts)
    assert named["other"] < found.step_ms / 2
    assert (mine.steps, mine.ranks, len(mine.ceilings)) == (4, 2, 2)
    assert mine.floors.memory_ms > 0
    assert mine.floors.arithmetic_ms > 0


def test_what_computes_in_bf16_moves_half_the_bytes(tmp_path):
    (full,) = run_ranks(benchmark, 1, ["precision.dense=fp32"], {}, tmp_path)
    (low,) = run_ranks(benchmark, 1, ["precision.dense=bf16"], {}, tmp_path)
    samples = 32
    layers = [(3, 16, 2), (16, 8, 3), (8 + 10, 16, 3)]  # 2: nobody needs the gradient of the input; the last is float32
    numbers = sum(count * (samples * m + m * n + samples * n) for m, n, count in layers)
    numbers += samples * ((5 * 8 + 5 * 5) + (5 * 5 + 5 * 8 + 5 * 8))  # V = 5 vectors, and their pairs
    assert full.work.streamed_bytes - low.work.streamed_bytes == pytest.approx(2 * numbers / samples)
    assert (full.work.flops, full.work.row_bytes) == (low.work.flops, low.work.row_bytes)
    assert low.floors.arithmetic_ms > 0


def in_trouble(rank, world_size, trouble, folder):
    """A benchmark in which rank 1 cannot write its trace, or has no memory for the ceilings; or none knows a product."""
    with pytest.MonkeyPatch.context() as patch:
        if trouble == "trace" and rank:
            (folder / "trace_rank1.json.gz.unfinished").mkdir()  # it cannot be written there
        elif trouble == "memory" and rank:
            patch.setattr(ceilings, "row_bytes_per_s", lambda *_: torch.empty(2**58))
        elif trouble == "products":
            patch.setattr(work, "_KNOWN", ())
        return benchmark(rank, world_size, ["profile=true"], {}, folder)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("trace", "trace_rank1.json.gz: Is a directory; not written, the run goes on"),
        ("memory", "no floors: the ceilings of rank 1 could not be measured (RuntimeError: "),
        ("products", "no floors: none of the model's matrix products is known"),
    ],
)
def test_what_cannot_be_written_or_measured_takes_nothing_else_with_it(trouble, said, tmp_path):
    mine, others = run_ranks(in_trouble, 2, trouble, tmp_path)
    assert (mine.step, mine.breakdown, mine.notices) == (others.step, others.breakdown, others.notices)
    (line,) = mine.notices
    assert said in line
    assert "\n" not in line
    has_floors = trouble == "trace"
    assert [bool(found.floors) for found in (mine, others)] == [has_floors] * 2
    assert [bool(found.ceilings) for found in (mine, others)] == [has_floors] * 2
    assert len(list(tmp_path.glob("trace_rank*.json.gz"))) == (1 if trouble == "trace" else 2)


def trained_without(rank, world_size, parts, options):
    """What a few steps without these parts call, read and change."""
    config = configuration(options)
    world, source = this_world(), dataset().train
    read = itertools.count()
    real = source.read
    source.read = lambda index_B: (next(read), real(index_B))[1]
    engine = build_engine(to_be_built(config.model_copy(update={"without": parts})), source.schema, world)
    training = Training(config, source, engine, world, without=parts)
    training.run(10)  # lookups that are left out are made once, and so is a set of batches
    before = {name: part.clone() for name, part in parts_of(engine).items()}
    reads = next(read)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        training.run(2)
    return {
        "called": {event.name for event in profiler.events()},
        "read": next(read) - reads - 1,
        "changed": {name for name, part in parts_of(engine).items() if not torch.equal(part, before[name])},
    }


def parts_of(engine):
    """Groups of dense weights, and tables, as one tensor each: of this rank."""
    found = {}
    for name, weight in engine.model.state_dict().items():
        if ".embedding_bags." not in name:
            found.setdefault(name.split(".")[1], []).append(weight.flatten())
        elif hasattr(weight, "local_shards"):
            found.setdefault("tables", []).extend(shard.tensor.flatten() for shard in weight.local_shards())
        else:
            found.setdefault("tables", []).append(weight.flatten())
    return {name: torch.cat(parts) for name, parts in found.items() if any(part.numel() for part in parts)}


COLLECTIVES = ("c10d::", "gloo:")
STEPS = FILLING + 2 + DRAINING
EVERYTHING = {"tables", "bottom_mlp", "top_mlp"}


@pytest.mark.parametrize(
    "options",
    [
        EVERY_SHARDING,
        ["precision.all_reduce=bf16"],
        slow(["precision.all_reduce=fp16"]),
        slow(["sharding.types=table_row_wise"]),
        slow(["sharding.types=grid_shard"]),
    ],
)
def test_without_exchange_no_collective_is_called(options):
    for found in run_ranks(trained_without, 2, ("exchange",), options):
        assert not [name for name in found["called"] if name.startswith(COLLECTIVES)]
        assert found["changed"] == EVERYTHING
        assert found["read"] == STEPS
    for found in run_ranks(trained_without, 2, (), options):
        assert [name for name in found["called"] if name.startswith(COLLECTIVES)]


@pytest.mark.parametrize(
    ("part", "still_changed", "missing"),
    [
        ("lookups", {"bottom_mlp", "top_mlp"}, "fbgemm::"),
        ("mlps", set(), "aten::addmm"),
        ("interaction", {"top_mlp"}, "_PairProducts"),
    ],
)
def test_without_a_part_its_work_is_gone_and_the_others_is_there(part, still_changed, missing):
    for found in run_ranks(trained_without, 2, (part,), EVERY_SHARDING):
        assert found["changed"] == still_changed
        lookups = [name for name in found["called"] if name.startswith("fbgemm::") and "embedding" in name]
        if part == "lookups":
            assert not lookups
        else:
            assert lookups
            assert not [name for name in found["called"] if name.startswith(missing)]
        assert found["read"] == STEPS
        assert [name for name in found["called"] if name.startswith(COLLECTIVES)]


def test_without_data_nothing_is_read_any_more():
    for found in run_ranks(trained_without, 2, ("data",), []):
        assert found["read"] == 0
        assert found["changed"] == EVERYTHING


def test_everything_can_be_left_out_at_once():
    parts = ("lookups", "exchange", "mlps", "interaction", "data")
    for found in run_ranks(trained_without, 2, parts, EVERY_SHARDING):
        assert found["changed"] == set()
        assert found["read"] == 0
        assert not [name for name in found["called"] if name.startswith((*COLLECTIVES, "aten::addmm"))]


def refused(rank, world_size):
    with pytest.raises(ConfigError, match="without: interaction: DeepFM has no module for it"):
        trained_without(rank, world_size, ("interaction",), ["model={kind: deepfm, embedding_dim: 8}"])


def test_what_a_model_does_not_have_cannot_be_left_out():
    run_ranks(refused, 1)
