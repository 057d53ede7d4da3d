"""Bytes that the cost model says ranks send, against those that they are seen to send.

The model leaves out the splits that go before each exchange of ids (how many lengths, ids and samples come, three int64 for
each other rank), and the few numbers that are summed for the log.
"""

from functools import partial

import pytest

from dlrm.config import load_options
from dlrm.config.benchmark import BenchmarkConfig
from dlrm.data.id_statistics.sample import measure, statistics_of
from dlrm.scaling.benchmark.passes import Training
from dlrm.scaling.cost.describe import workload_of
from dlrm.scaling.cost.workload import bytes_by_collective
from dlrm.train.engine import build_engine, plan_model
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source

RANKS, LOG = 2, 8
SPLITS = 3 * 8 * (RANKS - 1)
OPTIONS = [
    "train.global_batch_size=320", "model.embedding_dim=16", "model.bottom_mlp=16,16", "model.top_mlp=16,1",
    "optim.dense.lr=0.01", "logging.every_steps=1000000",
]  # fmt: skip


def seen_and_predicted(rank, world_size, options):
    """Of a step, by collective."""
    config = load_options(BenchmarkConfig, None, [*OPTIONS, *options])
    world, source = this_world(), tiny_source(640)
    engine = build_engine(config, source.schema, world)
    _, seen = Training(config, source, engine, world).warm_up(2)
    ids = statistics_of(source.schema, measure(source, 640))
    predicted = workload_of(config, source.schema, plan_model(config, source.schema, world), world, ids)
    return seen, bytes_by_collective(predicted)


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("options", "exchanges"),
    [
        (["sharding.types=table_wise"], 1),
        (["sharding.types=row_wise"], 1),
        slow(["sharding.types=column_wise"], 1),
        slow(["sharding.types=data_parallel"], 0),
        slow(["sharding.types=table_row_wise"], 1),
        slow(["sharding.types=table_column_wise"], 1),
        slow(["sharding.types=grid_shard"], 1),
        slow(["sharding.types=table_wise", "precision.exchange.forward=bf16", "precision.all_reduce=bf16"], 1),
        slow(
            ["sharding.types=table_wise", "sharding.tables={cat_0: {types: data_parallel}, cat_2: {types: row_wise}}"],
            2,
        ),
    ],
)
def test_they_are_those_that_ranks_send(options, exchanges):
    ranks = run_ranks(seen_and_predicted, RANKS, options)
    predicted = ranks[0][1]
    for collective in ranks[0][0]:
        seen = sum(of_rank[0][collective] for of_rank in ranks) / RANKS
        left_out = exchanges * SPLITS if collective == "all_to_all" else 0
        assert predicted.get(collective, 0.0) == pytest.approx(seen - left_out, rel=0.02, abs=LOG), collective
