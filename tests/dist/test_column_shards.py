"""Row-wise Adagrad by columns is row-wise Adagrad (laws 2 and 7)."""

import os

import numpy as np
import pytest
import torch
from torch import nn
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    grid_shard,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import dlrm.train.engine
from dlrm.config import load_config
from dlrm.config.optim import OptimConfig, RowwiseAdagrad, SparseSgd
from dlrm.errors import PlanError
from dlrm.optim.tables.build import fuse_optimizer, table_optimizer
from dlrm.sharding import column_shards
from dlrm.sharding.column_shards import train_column_shards
from dlrm.sharding.sharder import TableSharder
from dlrm.sharding.wrap import shard_model
from tests.support.ranks import run_ranks
from tests.support.training import this_world, training_losses

SAMPLES = 2480  # no multiple of the batch: the last of 50 batches holds 30
SMALL = [
    "model.bottom_mlp=16,16",
    "model.embedding_dim=16",
    "model.top_mlp=16,1",
    "optim.sparse.lr=0.05",
    "optim.dense.lr=0.01",
    "train.global_batch_size=50",  # no multiple of four ranks; many ids come more than once, a table has only 7
    "sharding.min_column_width=4",
]
MIXTURE = ["column_wise", "row_wise", "table_column_wise", "data_parallel"]


def losses_and_cuts(rank, world_size, ranks_per_host, correct, config):
    """Losses of 50 steps, and for each table into how many ranges of rows and of columns it is cut."""
    os.environ.update(LOCAL_WORLD_SIZE=str(ranks_per_host), LOCAL_RANK=str(rank % ranks_per_host))
    plans = []

    def install(sharded, *, plan, optimizer, groups):
        plans.append(plan)
        if correct:
            train_column_shards(sharded, plan=plan, optimizer=optimizer, groups=groups)

    dlrm.train.engine.train_column_shards = install  # in a process that ends with this function
    losses = training_losses(rank, world_size, config, SAMPLES, 50)
    (plan,) = plans
    cuts = {}
    for tables in plan.plan.values():
        for table, parameter in tables.items():
            shards = parameter.sharding_spec.shards if parameter.sharding_spec else []
            cuts[table] = tuple(len({shard.shard_offsets[axis] for shard in shards}) for axis in (0, 1))
    return losses, cuts


def train(world_size, ranks_per_host, *options, correct=True):
    config = load_config(None, [*SMALL, *options])
    by_rank = run_ranks(losses_and_cuts, world_size, ranks_per_host, correct, config)
    assert all(of_rank == by_rank[0] for of_rank in by_rank)
    return by_rank[0]


@pytest.fixture(scope="module")
def whole_tables():
    losses, cuts = train(1, 1, "sharding.types=table_wise")
    assert set(cuts.values()) == {(1, 1)}
    return losses


def assert_same_training(actual, expected):
    assert actual[0] == pytest.approx(expected[0], rel=1e-6)
    assert actual == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("world_size", "ranks_per_host", "sharding"),
    [
        (1, 1, "column_wise"),
        (2, 2, "column_wise"),
        (4, 4, "column_wise"),
        (1, 1, "table_column_wise"),
        (2, 1, "table_column_wise"),
        (4, 2, "table_column_wise"),
        (1, 1, "grid_shard"),
        (2, 1, "grid_shard"),
        (4, 2, "grid_shard"),
    ],
)
def test_tables_cut_into_columns_train_like_whole_ones(whole_tables, world_size, ranks_per_host, sharding):
    losses, cuts = train(world_size, ranks_per_host, f"sharding.types={sharding}")
    for row_ranges, column_ranges in cuts.values():
        assert column_ranges > 1
        assert row_ranges == (ranks_per_host if sharding == "grid_shard" else 1)
    assert_same_training(losses, whole_tables)


@pytest.mark.parametrize("pipeline", ["sparse_dist", "base"])
def test_tables_cut_in_different_ways_train_like_whole_ones(whole_tables, pipeline):
    tables = [f"sharding.tables.cat_{i}.types={kind}" for i, kind in enumerate(MIXTURE)]
    losses, cuts = train(2, 2, *tables, f"train.pipeline={pipeline}")
    assert [rows_and_columns[1] > 1 for rows_and_columns in cuts.values()] == [True, False, True, False]
    assert_same_training(losses, whole_tables)


def test_warm_up_and_rates_of_single_tables_reach_tables_that_are_cut():
    options = ["optim.schedule.warmup_steps=10", "optim.lr_scale.cat_1=2.0"]
    expected, _ = train(1, 1, *options, "sharding.types=table_wise")
    actual, _ = train(2, 2, *options, "sharding.types=column_wise")
    assert_same_training(actual, expected)


def test_the_fused_kernels_alone_would_train_otherwise(whole_tables):
    losses, _ = train(2, 2, "sharding.types=column_wise", correct=False)
    assert max(abs(a / b - 1) for a, b in zip(losses, whole_tables, strict=True)) > 1e-3


# The update alone, against float64 by hand: gradients are given, bags hold 0 to 4 ids, some of them twice.

TABLES = {"a": (13, 256), "b": (5, 8), "c": (40, 16), "d": (2, 12), "e": (8, 12)}  # rows, dim; grids are cut at 128
FASTER = "c"  # has a rate, and so a fused kernel, of its own
RATE, EPS, STEPS, BAGS = 0.3, 1e-8, 5, 6


def plans(world_size):
    """Pieces on one rank and on several, on all ranks and on some; d and e, of which some ranks hold no row, are whole."""
    if world_size == 1:
        return dict.fromkeys(["a", "b", "c"], column_wise(ranks=[0, 0])) | dict.fromkeys(["d", "e"], table_wise(rank=0))
    if world_size == 2:
        pieces = {"a": column_wise(ranks=[1, 0, 1, 0]), "b": column_wise(ranks=[1, 1])}
        return pieces | {"c": column_wise(size_per_rank=[12, 4])} | dict.fromkeys(["d", "e"], row_wise())
    pieces = {"a": grid_shard(host_indexes=[1, 0]), "b": column_wise(ranks=[3, 0])}
    return pieces | {"c": column_wise(ranks=[2, 1, 2, 0])} | dict.fromkeys(["d", "e"], row_wise())


def weights(table):
    rows, dim = TABLES[table]
    return np.sin(np.arange(rows * dim, dtype=np.float64) + ord(table)).reshape(rows, dim).astype(np.float32)


def batch(step, rank):
    """Lengths and ids of each table's bags, and the gradients of the bags; nobody has ids of b in the first step."""
    random = np.random.default_rng((step, rank))
    of_tables = {}
    for table, (rows, dim) in TABLES.items():
        lengths_B = random.integers(0, 5, BAGS) * (step > 0 or table != "b")
        ids_N = random.integers(0, rows, lengths_B.sum())
        ids_N[1::2] = ids_N[: 2 * (len(ids_N) // 2) : 2]  # neighbours are often the same id twice
        of_tables[table] = lengths_B, ids_N, random.standard_normal((BAGS, dim)).astype(np.float32)
    return of_tables


class Bags(nn.Module):
    """Tables whose pooled embeddings have given gradients."""

    def __init__(self):
        super().__init__()
        configs = [
            EmbeddingBagConfig(name=name, num_embeddings=rows, embedding_dim=dim, feature_names=[name])
            for name, (rows, dim) in TABLES.items()
        ]
        self.tables = EmbeddingBagCollection(tables=configs, device=torch.device("meta"))
        self.scale = nn.Parameter(torch.ones(()))  # DistributedDataParallel wants one of its own

    def forward(self, sparse, gradients):
        pooled = self.tables(sparse).to_dict()
        return self.scale * sum((pooled[name] * gradient_BD).sum() for name, gradient_BD in gradients.items())


def sharded_bags(rank, world_size):
    ranks_per_host = min(world_size, 2)
    os.environ.update(LOCAL_WORLD_SIZE=str(ranks_per_host), LOCAL_RANK=str(rank % ranks_per_host))
    model = Bags()
    optimizer = table_optimizer(RowwiseAdagrad(lr=RATE, eps=EPS))
    of_torch = {name: model.tables.embedding_bags[name].weight for name in TABLES}
    fuse_optimizer(of_torch, optimizer, OptimConfig(lr_scale={FASTER: 2.0}))
    of_tables = construct_module_sharding_plan(
        model.tables, plans(world_size), TableSharder(), ranks_per_host, world_size, "cpu"
    )
    plan = ShardingPlan({"tables": of_tables})

    def fill(table, block_RC, first_row, first_column):
        rows, columns = (
            slice(at, at + size) for at, size in zip((first_row, first_column), block_RC.shape, strict=True)
        )
        block_RC.copy_(torch.from_numpy(weights(table)[rows, columns]))

    return shard_model(model, plan=plan, world=this_world(), fill_block=fill), plan, optimizer


def pieces_after_training(rank, world_size, count_rows_on):
    """What each rank holds after a few steps: (table, first row, first column, weights, accumulators)."""
    column_shards._COUNT_ROWS_ON = count_rows_on  # in a process that ends with this function
    model, plan, optimizer = sharded_bags(rank, world_size)
    train_column_shards(model, plan=plan, optimizer=optimizer)
    for step in range(STEPS):
        of_tables = batch(step, rank)
        sparse = KeyedJaggedTensor(
            keys=list(TABLES),
            values=torch.from_numpy(np.concatenate([ids_N for _, ids_N, _ in of_tables.values()])),
            lengths=torch.from_numpy(np.concatenate([lengths_B for lengths_B, _, _ in of_tables.values()])),
        )
        with torch.no_grad():  # looks, and must not train
            model(sparse, {})
        gradients = {name: torch.from_numpy(gradient_BD) for name, (_, _, gradient_BD) in of_tables.items()}
        model(sparse, gradients).backward()
    held = []
    for name, weight in model.fused_optimizer.params.items():
        (sums,) = model.fused_optimizer.state[weight].values()
        for piece, sums_R in zip(weight.local_shards(), sums.local_shards(), strict=True):
            at = piece.metadata.shard_offsets
            held.append((name.split(".")[-2], *at, piece.tensor.detach().numpy(), sums_R.tensor.numpy()))
    return held


def by_hand(table, world_size):
    """Weights and accumulators of a whole table after the same steps, in float64."""
    weight_RD = weights(table).astype(np.float64)
    sums_R = np.zeros(len(weight_RD))
    rate = RATE * (2.0 if table == FASTER else 1.0)
    for step in range(STEPS):
        gradient_RD = np.zeros_like(weight_RD)
        for rank in range(world_size):
            lengths_B, ids_N, gradient_BD = batch(step, rank)[table]
            np.add.at(gradient_RD, ids_N, gradient_BD.repeat(lengths_B, axis=0) / world_size)
        sums_R += np.square(gradient_RD).mean(axis=1)
        weight_RD -= rate * gradient_RD / (np.sqrt(sums_R) + EPS)[:, None]
    return weight_RD, sums_R


@pytest.mark.parametrize("count_rows_on", [("cpu",), ()], ids=["counted", "as on cuda"])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_weights_and_accumulators_are_those_computed_by_hand_and_accumulators_of_a_row_equal_to_the_bit(
    world_size, count_rows_on
):
    pieces = [piece for held in run_ranks(pieces_after_training, world_size, count_rows_on) for piece in held]
    for table, shape in TABLES.items():
        weight_RD, sums_R = by_hand(table, world_size)
        copies_R = {}
        covered_RD = np.zeros(shape)
        for _, first_row, first_column, piece_RC, piece_sums_R in (piece for piece in pieces if piece[0] == table):
            rows, columns = (
                slice(first_row, first_row + len(piece_RC)),
                slice(first_column, first_column + piece_RC.shape[1]),
            )
            covered_RD[rows, columns] += 1
            np.testing.assert_allclose(piece_RC, weight_RD[rows, columns], rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(piece_sums_R, sums_R[rows], rtol=1e-6)
            np.testing.assert_array_equal(copies_R.setdefault(first_row, piece_sums_R), piece_sums_R)
        assert (covered_RD == 1).all()


def watched_tables(rank, world_size, optimizer):
    """The tables whose update is taken from the fused kernel."""
    model, plan, _ = sharded_bags(rank, world_size)
    train_column_shards(model, plan=plan, optimizer=table_optimizer(optimizer))
    (tables,) = (module for module in model.modules() if isinstance(module, ShardedEmbeddingBagCollection))
    watched = [lookup for lookup in tables._lookups if lookup._forward_hooks]
    return {table.name for lookup in watched for config in lookup.grouped_configs for table in config.embedding_tables}


def test_tables_that_are_not_cut_and_other_optimizers_keep_the_fused_kernels():
    assert run_ranks(watched_tables, 1, RowwiseAdagrad(lr=RATE)) == [{"a", "b", "c"}]
    assert run_ranks(watched_tables, 4, RowwiseAdagrad(lr=RATE)) == [
        {"a", "b", "c"},
        {"a", "c"},
        {"a", "c"},
        {"a", "b"},
    ]
    assert run_ranks(watched_tables, 1, SparseSgd(lr=RATE)) == [set()]


def test_a_table_behind_a_cache_cannot_be_cut_and_says_so():
    model = Bags()
    cached = column_wise(ranks=[0, 1], compute_kernel="fused_uvm_caching")
    sharding = {**dict.fromkeys(TABLES, row_wise()), "a": cached}
    plan = ShardingPlan(
        {"tables": construct_module_sharding_plan(model.tables, sharding, TableSharder(), 2, 2, "cuda")}
    )
    with pytest.raises(PlanError, match=r"table a is sharded column_wise .* set sharding.tables.a.kernels to fused"):
        train_column_shards(model, plan=plan, optimizer=table_optimizer(RowwiseAdagrad(lr=RATE)))
    train_column_shards(model, plan=plan, optimizer=table_optimizer(SparseSgd(lr=RATE)))
