"""Bytes that ranks send each other in a step, counted, are those that follow by hand from the shapes."""

from functools import partial

import pytest

from dlrm.config import load_options
from dlrm.config.benchmark import BenchmarkConfig
from dlrm.scaling.benchmark.passes import Training
from dlrm.train.engine import build_engine
from tests.support.ranks import run_ranks
from tests.support.training import ROWS, this_world, tiny_source

RANKS, BATCH, DIM, TABLES, DENSE = 2, 32, 8, len(ROWS), 3
OWN = BATCH // RANKS  # samples of a rank
OPTIONS = [
    f"train.global_batch_size={BATCH}",
    f"model.embedding_dim={DIM}",
    "model.bottom_mlp=16,8",
    "model.top_mlp=16,1",
]
OPTIONS += ["optim.dense.lr=0.01", "logging.every_steps=1000000"]
PAIRS = (TABLES + 1) * TABLES // 2
WEIGHTS = (DENSE * 16 + 16) + (16 * DIM + DIM) + ((DIM + PAIRS) * 16 + 16) + (16 + 1)
EMBEDDINGS = OWN * TABLES * DIM * 4  # of one rank's samples, all tables, in float32
SPLITS = RANKS * 3 * 8  # before each exchange of ids, how many lengths, ids and samples come: int64 to the other rank
LOSS = 12  # a few numbers are summed at the end of some steps, for the log
IDS = OWN * TABLES * (4 + 4)  # an id and a length of each sample and table, int32


def sent(rank, world_size, options):
    """Of a step, by collective, of this rank."""
    config = load_options(BenchmarkConfig, None, [*OPTIONS, *options])
    world, source = this_world(), tiny_source(640)
    engine = build_engine(config, source.schema, world)
    _, found = Training(config, source, engine, world).warm_up(2)
    return found


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            # An id goes to where its table is, its row comes back, and the gradient goes again.
            ["sharding.types=table_wise"],
            {"all_to_all": IDS + SPLITS + 2 * EMBEDDINGS, "all_reduce": RANKS * WEIGHTS * 4},
        ),
        (
            # Every rank has partial sums for the other's samples, and needs the gradients of the other's.
            ["sharding.types=row_wise"],
            {"reduce_scatter": 2 * EMBEDDINGS, "all_gather": 2 * EMBEDDINGS, "all_reduce": RANKS * WEIGHTS * 4},
        ),
        slow(
            ["sharding.types=data_parallel"],
            {"all_to_all": 0, "all_reduce": RANKS * (WEIGHTS + sum(ROWS) * DIM) * 4},
        ),
        slow(
            ["sharding.types=table_wise", "precision.all_reduce=bf16", "precision.exchange.forward=bf16"],
            {"all_to_all": IDS + SPLITS + EMBEDDINGS / 2 + EMBEDDINGS, "all_reduce": RANKS * WEIGHTS * 2},
        ),
        slow(
            # Dense gradients are summed once a step, those of replicated tables after each micro-batch.
            ["sharding.types=table_wise", "train.accumulation_steps=2", "sharding.tables={cat_2: {types: data_parallel}}"],
            {"all_reduce": RANKS * (WEIGHTS + 2 * ROWS[2] * DIM) * 4},
        ),
    ],
)  # fmt: skip
def test_they_are_what_follows_from_the_shapes(options, expected):
    ranks = run_ranks(sent, RANKS, options)
    total = {collective: sum(rank[collective] for rank in ranks) for collective in ranks[0]}
    assert {name: total[name] for name in expected} == pytest.approx(expected, abs=LOSS)
    if options == ["sharding.types=row_wise"]:  # all lengths are sent, of the ids those whose rows are not here
        lengths = RANKS * OWN * TABLES * 4
        assert lengths + SPLITS < total["all_to_all"] < 2 * lengths + SPLITS


def test_a_single_rank_sends_nothing():
    (found,) = run_ranks(sent, 1, [])
    assert set(found.values()) == {0.0}
