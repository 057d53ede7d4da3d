"""Tables are trained alike under any name, however they are sharded, and deltas find their rows."""

import dataclasses

import torch

from dlrm.checkpoint.saver import SaveReport
from dlrm.config import load_config
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.schema import Schema
from dlrm.table_names import state_name
from dlrm.train.checkpointing.delta_state import DeltaState
from dlrm.train.engine import build_engine
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source
from tests.support.whole_state import gather_state

NAMES = [
    "type",
    "user.id",
    "two\nlines",
    "",
    "column%x",
    "weight",
    "a@b",
    "../x",
    "bottom_mlp",
    "größe",
    "optimizer",
    "_modules",
]
TYPES = ["row_wise", "column_wise", "table_wise", "data_parallel"]
ROWS, SAMPLES, BATCH = 40, 64, 16


def config_of(types):
    tables = {name: {"types": [types[i % len(types)]]} for i, name in enumerate(NAMES)}
    options = ["model.embedding_dim=8", "model.bottom_mlp=8", "model.top_mlp=4,1", f"train.global_batch_size={BATCH}"]
    config = load_config(None, [*options, "optim.sparse.lr=0.1"])
    return config.model_copy(update={"sharding": config.sharding.model_validate({"tables": tables})})


def trained(rank, world_size, types):
    """The state after an epoch, whole; and the names of what a delta checkpoint holds then."""
    world = this_world()
    source = tiny_source(SAMPLES, rows=(ROWS,) * len(NAMES))
    sparse = tuple(dataclasses.replace(f, name=n) for f, n in zip(source.schema.sparse, NAMES, strict=True))
    source.schema = Schema(source.schema.dense, sparse)
    engine = build_engine(config_of(types), source.schema, world)
    rows = DeltaState(engine, world.collectives, full_every=9, bits=32, full_at_first=0)
    rows.collect()
    saved = {"path": "", "step": 0, "bytes": 0, "stalled_s": 0.0, "written_s": 0.0, "manifest_checksum": "0" * 64}
    rows.on_saved(SaveReport(**saved))
    loader = BatchLoader(source, SampleOrder(SAMPLES, global_batch_size=BATCH), rank=rank, world_size=world_size)
    list(engine.stepper.train(loader.batches(0, 0, 1), first_step=1))
    _, metadata = rows.collect()
    list(engine.stepper.train(loader.batches(0, 1, 4), first_step=2))
    return gather_state(engine, world.collectives), metadata


def test_two_ranks_train_tables_of_any_name_as_one_does():
    expected, _ = run_ranks(trained, 1, ["table_wise"])[0]
    actual, metadata = run_ranks(trained, 2, TYPES)[0]
    keys = [state_name(name) for name in NAMES]
    assert {f"tables.{key}.weight" for key in keys} < set(expected)
    assert {f"tables.{key}.optimizer.sum" for key in keys} < set(expected)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-6)
    followed = [key for i, key in enumerate(keys) if TYPES[i % 4] != "data_parallel"]
    assert sorted(metadata["increment"]["shards"]) == sorted(followed)
